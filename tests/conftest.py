import os

# Before anything imports triton: kernels then run on CPU tensors, interpreted. TRITON_INTERPRET=0 leaves them compiled.
os.environ.setdefault("TRITON_INTERPRET", "1")
