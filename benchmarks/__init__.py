"""Speed and memory of the pruned step against its limit. Run by hand: `make bench`; never part of the tests."""
