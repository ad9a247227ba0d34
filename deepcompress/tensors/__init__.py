"""One tensor in compressed form, and the models that are made of them."""
