"""How we know: the ledger, storage audit, expectation suites and reports. Reads the lake, never changes science."""
