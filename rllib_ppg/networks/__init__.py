"""Networks: what PPG trains."""
