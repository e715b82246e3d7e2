"""Networks: nothing but nn.Module, and the functions that load weights into them."""
