"""A second reader of the .dcz format, written from FORMAT.md alone, and hand-made files to try it on."""
