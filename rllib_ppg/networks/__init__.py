"""The networks that PPG trains."""
