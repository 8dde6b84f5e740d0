"""Where data lives and how it moves. Knows dimensions and datasets; knows no astronomy."""
