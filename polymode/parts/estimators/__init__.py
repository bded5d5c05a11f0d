"""Gradients of expectations over draws that have no derivative of their own."""
