"""Controllers: run control, writers and the monitor service."""
