"""LoRA adapters: read and checked at planning, applied to slices of a batch's rows.

LoRA (Hu et al., arXiv 2106.09685) adds x A^T B^T * scale to the output of a linear layer, with A
[rank, in] and B [out, rank]. S-LoRA (Sheng et al., arXiv 2311.03285) runs thousands over one model
by gathering each row's adapter; here rows of one adapter are neighbours, and nothing is gathered.
"""
