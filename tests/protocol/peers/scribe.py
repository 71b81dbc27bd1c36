"""A process that writes records to a ledger and says so, to be killed. Usage: scribe.py FILE; hex on stdin."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from protocol_support import NOW_S

from paris.protocol.book import RecordBook
from paris.protocol.transport.ledger import Ledger
from paris.protocol.validation import check_record

book = RecordBook()
Ledger.open(Path(sys.argv[1])).load(book, NOW_S)
for line in sys.stdin:
    book.offer(check_record(bytes.fromhex(line), NOW_S, {}), NOW_S)
    print("written", flush=True)  # noqa: T201
