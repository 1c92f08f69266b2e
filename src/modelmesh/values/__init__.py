"""Frozen values: ids, records, the view, outcomes, reasons.

No I/O, no clock, no behaviour beyond their own fields. Read first: `ids`, then `records`, then `view`.
"""
