"""What can be asked of a model without training it: where samples lie on the plane, whether scores find errors."""
