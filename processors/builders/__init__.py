"""The event builders that come with freerun; each is a `freerun.builder.Builder`."""
