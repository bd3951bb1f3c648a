"""What the gateway costs a request, alone and next to its peers."""
