"""The simulator of raw exposures: an honest stand-in where no raws can be shipped, with its truth kept in truth_* tables."""
