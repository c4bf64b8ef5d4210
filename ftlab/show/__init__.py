"""Pictures and interaction; they compute nothing. `plots` and `widgets` are for labs, `terminal` for commands."""
