"""Work placed on several kinds of device."""
