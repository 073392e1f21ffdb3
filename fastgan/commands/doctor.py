"""What is installed."""

from typing import Annotated

from fastgan.commands.options import Metavar
from fastgan.commands.printing import OUT


def doctor(*, compile_kernels: Annotated[str | None, Metavar(metavar="sm_80,sm_90,sm_100")] = None) -> None:
    """What is installed, what will be used, what is missing and how to get it.

    Args:
        compile_kernels: Compile every kernel for these GPU architectures (none need be there) and list registers, spills,
            shared memory and load width.
    """
    from fastgan.doctor import findings, kernel_table

    for line in findings():
        OUT.print(line)
    if compile_kernels is not None:
        OUT.print(kernel_table([name.strip() for name in compile_kernels.split(",")]))
