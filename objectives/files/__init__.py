"""Files of other people's models and questions, read within bounds, and files written whole."""
