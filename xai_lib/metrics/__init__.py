"""How good an explanation is: one module a family of metrics, functions of tensors wherever possible."""
