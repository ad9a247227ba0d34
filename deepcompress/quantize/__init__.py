"""Values that many weights share: where to put them, and how to round them to what a file stores."""
