"""Where weights live in any nn.Module: selecting them, holding masks over them, and finding shared storage."""
