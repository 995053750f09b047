"""What only a GPU can show; collected where there is one."""
