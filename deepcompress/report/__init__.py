"""What a compression cost and saved, and how to show it: terminal, Markdown, JSON, HTML."""
