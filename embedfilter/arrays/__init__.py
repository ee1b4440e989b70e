"""What users hand over as arrays, and as what the C core takes it."""
