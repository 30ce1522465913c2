"""Pure decisions: every rule of the library, given the time, free of I/O."""
