import subprocess
import sys

import wattwerk.codec as codec


def test_every_public_name_is_there():
    """`__all__` and `dir` are the same list, and every name on it can be had."""
    assert dir(codec) == sorted(codec.__all__)
    assert all(getattr(codec, name).__doc__ for name in codec.__all__)


def test_the_codec_needs_nothing_but_numpy_msgspec_and_itself():
    """Importing all of it brings in neither a runtime nor a framework; importing the package alone not even NumPy."""
    program = (
        "import sys, wattwerk.codec as codec\n"
        "assert 'numpy' not in sys.modules\n"
        "for name in codec.__all__: getattr(codec, name)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'safetensors', 'pandas', 'scipy', 'ml_dtypes'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or None)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
