"""`python -m paris.node` is `paris-node`."""

from paris.node.cli import main

if __name__ == "__main__":
    main()
