"""Eyes and buttons: the one web server. Reads snapshots, sends commands, holds no truth."""
