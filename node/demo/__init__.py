"""`paris-node demo`: a whole network on this machine, from captioned pictures to an audited ensemble that draws."""
