"""The labs: where they are, how they are built and run, and what a notebook talks to."""
