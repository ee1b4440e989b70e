"""Other libraries' ways to use a filter; each module imports its library when it is asked for."""
