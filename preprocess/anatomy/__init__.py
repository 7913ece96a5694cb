"""Body-part profiles, and code that only some profiles use."""
