"""What people read: figures, pages and formatted numbers."""
