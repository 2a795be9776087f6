"""One device a module. A driver is found by its entry point in `freerun.drivers`."""
