"""What only a CUDA device needs: its memory shared out by measurement, and CUDA graphs."""
