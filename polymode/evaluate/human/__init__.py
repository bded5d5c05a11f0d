"""What people say: strengths from pairs, opinion scores, agreement between raters."""
