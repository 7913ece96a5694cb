"""What is specific to a part of the body: a profile each, and the code that only some profiles use."""
