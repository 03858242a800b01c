"""Drives nncodec 2.1.3 for make_golden_streams.py: its encoder, inner functions included, and what its decoder says.

Needs a Python that has nncodec (numpy < 2 and torch).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from nncodec import nnc, nnc_core
from nncodec.extensions import deepCABAC
from nncodec.nnc_core import coder, hls
from nncodec.nnc_core.hdsp.hdsp_tool import HdspTool

Arrays = dict[str, np.ndarray]
#: Streams that belong together, in order, each with what its decoder has to know.
Streams = list[tuple[bytes, dict[str, Any]]]
NDU = 5
MAPS = ("sparsification_flag", "pruning_flag", "unification_flag", "decomposition_performance_map_flag")
#: What the manifest leaves out of a tensor's tools.
USUAL = {
    "integer": False, "qp": None, "model_qp": 0, "qp_density": 2, "dependent": 1, "unary_length": 11, "scan_order": 0,
    "profile": 1, "parent": 0, "temporal": 0, "history": 0, "row_skip": 1, "codebook": None, "codebook_zero": 0,
}  # fmt: skip


def public(arrays: Arrays, **options: Any) -> bytes:
    """Encode through the reference's public call."""
    defaults = {"qp": -32, "row_skipping": True, "return_bitstream": True, "bitstream_path": None}
    return bytes(nnc.compress(arrays, **(defaults | options)))


def inner(
    arrays: Arrays,
    *,
    blocks: dict[str, Any] | None = None,
    profile: int = 1,
    qp: int = -32,
    dq: bool = True,
    scan_order: int = 0,
    codebook_mode: int = 0,
    raw: bool = False,
    joined: bool = True,
    row_skip: bool = True,
) -> bytes:
    """Encode through the reference's inner functions, which know more than the public call."""
    info = nnc_core.nnr_model.NNRModel(arrays).model_info
    if blocks:
        nnc_core.nnr_model.set_block_id_and_param_type(info, blocks)
    parameters = dict(arrays)
    if blocks and "rank" in blocks:
        parameters |= factors(parameters.pop("c.weight"), blocks["rank"])
    data = nnc_core.approximator.init_approx_data(parameters, info, qp_density=2, scan_order=scan_order)
    method = "codebook" if codebook_mode else "uniform"
    approximation = nnc_core.approximator.ApproxInfo(
        data, info, method, codebook_mode, qp, False, not dq, 10, 0, nonweight_qp=-75
    ).approx_info
    if raw:
        approximation["to_approximate"] = []
    encoding = {
        "cabac_unary_length_minus1": 10, "param_opt_flag": True, "general_profile_idc": profile,
        "node_id_present_flag": 1 if profile else 0, "device_id": 0, "parent_node_id_present_flag": 0,
        "mps_parent_signalling_enabled_flag": 0, "temporal_context_modeling_flag": 0,
        "row_skip_enabled_flag": int(row_skip), "nnr_pt_block_enabled_flag": int(joined),
    }  # fmt: skip
    data = nnc_core.approximator.approx(approximation, info, data, encoding)
    if raw:
        data["approx_method"] = Nothing()
    return bytes(coder.encode(encoding, info, data)[0])


def with_model_set(arrays: Arrays, model: dict[str, Any], **options: Any) -> bytes:
    """Encode with more in the model's parameter set than the encoder writes by itself."""
    compile_mps = coder.syntax_compiler.compile_mps
    hls.BitWriter.flt = write_float
    coder.syntax_compiler.compile_mps = lambda *given: compile_mps(*given) | model
    try:
        return inner(arrays, **options)
    finally:
        coder.syntax_compiler.compile_mps = compile_mps


def write_float(writer: Any, bits: int, value: np.float32) -> None:
    """Write a float32; the reference's own function ends with an error."""
    for byte in value.tobytes():
        writer.u(bits // 4, byte)


class Nothing(dict[str, None]):
    """The method of tensors that are not coded; the reference asks for one nevertheless."""

    def __missing__(self, name: str) -> None:
        return None


def factors(weight: np.ndarray, rank: int) -> Arrays:
    """Return the two factors of a weight by singular values, G with a row for each output."""
    left, values, right = np.linalg.svd(weight.reshape(len(weight), -1).astype(np.float64), full_matrices=False)
    root = np.sqrt(values[:rank])
    # round, so that the last bits do not depend on the machine's linear algebra
    pair = {"c.weight_G": left[:, :rank] * root, "c.weight_H": root[:, None] * right[:rank]}
    return {name: np.round(factor, 4).astype(np.float32) for name, factor in pair.items()}


def updates(rounds: list[Arrays], *, tca: bool, hdsp: bool = False, **options: Any) -> Streams:
    """Encode the rounds of an update, each with what it refers to; the reference's decoder follows."""
    bases = [new_base(), new_base()]
    tools = [HdspTool(hdsp), HdspTool(hdsp)]
    streams: Streams = []
    for arrays in rounds:
        before = copy.deepcopy(bases[1]), copy.deepcopy(tools[1])
        stream = public(
            arrays, compress_differences=True, tca=tca, hdsp_tool=tools[0], approx_param_base=bases[0],
            update_base_param=True, **options,
        )  # fmt: skip
        streams.append((stream, {"base": before[0], "tool": before[1]}))
        nnc.decompress(
            bytearray(stream), hdsp_tool=tools[1], return_hls=True, approx_param_base=bases[1], update_base_param=True
        )
    return streams


def new_base() -> dict[str, Any]:
    """Return the state of a decoder that has seen no update."""
    return {"parameters": {}, "put_node_depth": {}, "device_id": 0, "parameter_id": {}}


# What the reference's decoder says


class Witness:
    """Listens to the reference's decoder and notes the tools of each tensor."""

    def __init__(self) -> None:
        self.units: list[dict[str, Any]] = []
        self._last: Any = None

    def wrap(self, decode: Any) -> Any:
        """Return the reference's `decode` of one tensor with an ear."""

        def listening(decoder: Any, data: Any, base: Any, param: str, ndu: Any, *rest: Any) -> None:
            if ndu is not self._last:
                self.units.append({"header": ndu, "tensors": []})
                self._last = ndu
            decode(decoder, data, base, param, ndu, *rest)
            shape = [int(size) for size in data["parameters"][param].shape]
            self.units[-1]["tensors"].append({"name": param, "shape": shape, **tools_of(data, param, ndu, shape)})

        return listening


def tools_of(data: Any, param: str, ndu: Any, shape: list[int]) -> dict[str, Any]:
    """Return with which tools a tensor was coded."""
    width = int(np.prod(shape[1:]))
    flat = len(shape) == 1 or width == 1 or shape[0] == 1
    codebook = data["codebooks"].get(param)
    return {
        "integer": data["approx_method"][param] == "skip",
        "qp": None if data["approx_method"][param] == "skip" else int(data["qp"][param]),
        "qp_density": int(data["qp_density"]),
        "dependent": int(data["dq_flag"][param]),
        "unary_length": int(ndu["cabac_unary_length_minus1"]) + 1,
        "scan_order": 0 if flat else int(ndu["scan_order"]),
        "profile": int(ndu["general_profile_idc"]),
        "parent": int(ndu.get("parent_node_id_present_flag", 0)),
        "temporal": int(ndu.get("temporal_context_modeling_flag", 0)),
        "codebook": None if codebook is None else [int(value) for value in codebook],
        "codebook_zero": 0 if codebook is None else int(data["codebook_zero_offsets"][param]),
    }


def describe(stream: bytes, state: dict[str, Any]) -> tuple[list[dict[str, Any]], Arrays]:
    """Decode a stream with the reference; return its coded units and the arrays for its npz."""
    base, tool = copy.deepcopy(state.get("base")), copy.deepcopy(state.get("tool"))
    witness, original = Witness(), coder.baseline.decode
    coder.baseline.decode = witness.wrap(original)
    info: dict[str, Any] = {
        "parameter_type": {}, "parameter_dimensions": {}, "parameter_index": {}, "block_identifier": {},
        "performance_maps": {"mps": {}, "lps": {}},
        "performance_map_flags": {f"{s}_{m}": {} for s in ("mps", "lps") for m in MAPS},
    }  # fmt: skip
    sizes: dict[str, Any] = {}
    try:
        decoded = coder.decode(bytearray(stream), info, hls_stats=sizes, approx_param_base=base, tool_if=tool)
    finally:
        coder.baseline.decode = original
    nnc_core.approximator.rec(decoded)
    for tensor in (tensor for unit in witness.units for tensor in unit["tensors"]):
        tensor["row_skip"] = state.get("row_skip", 1)  # of blocks; what else there is tells it itself
        tensor["model_qp"] = state.get("model_qp", 0)
    units = locate(stream, sizes["ndu_bytes"], witness.units)
    return units, arrays_of(decoded["parameters"], units, info, state)


def locate(stream: bytes, headers: list[int], units: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return where the payload of each coded unit lies; units of raw numbers have none."""
    places, start = [], 0
    while start < len(stream):
        wide = stream[start] >> 7
        size = int.from_bytes(stream[start : start + 2 + 2 * wide], "big") & (0x7FFFFFFF if wide else 0x7FFF)
        if stream[start + 2 + 2 * wide] >> 2 == NDU:
            places.append((start, start + headers[len(places)], start + size))
        start += size
    coded = [place for place in places if not is_raw(stream, place[0])]
    located = []
    for (start, payload, end), unit in zip(coded, units, strict=True):
        entry_points = [int(entry) for entry in unit["header"].get("cabac_entry_point_list", ())]
        if len(unit["tensors"]) == 1:
            unit["tensors"][0] |= first_flags(stream[payload:end], unit["tensors"][0])
        located.append({"start": start, "payload": payload, "end": end, "tensors": unit["tensors"]})
        if entry_points:
            located[-1]["entry_points"] = entry_points
    return located


def first_flags(payload: bytes, tensor: dict[str, Any]) -> dict[str, int]:
    """Return whether the one tensor of a payload uses the history's contexts and skips rows."""
    matrix = tensor["profile"] and len(tensor["shape"]) > 1 and tensor["shape"][0] > 1
    if not matrix or np.prod(tensor["shape"][1:]) == 1 or len(tensor["codebook"] or "no") == 1:
        return {"history": 0, "row_skip": 1}
    decoder = deepCABAC.Decoder()
    decoder.setStream(np.frombuffer(payload, dtype=np.uint8))
    if not tensor["integer"]:
        decoder.iae_v(6 + tensor["qp_density"])
    history = decoder.uae_v(1) if tensor["parent"] else 0
    return {"history": history, "row_skip": decoder.uae_v(1)}


def is_raw(stream: bytes, start: int) -> bool:
    """Return whether a unit holds plain float32 numbers."""
    header = start + 3 + 2 * (stream[start] >> 7)
    return stream[header] >> 3 == 2


def arrays_of(values: Arrays, units: list[dict[str, Any]], info: dict[str, Any], state: dict[str, Any]) -> Arrays:
    """Return the arrays of the npz by kind and name: what each tensor decodes to and refers to."""
    arrays = {
        f"value/{name}": value if value.dtype == np.int32 else np.float32(value) for name, value in values.items()
    }
    for name in values:
        if name.endswith("_G"):
            product = values[name].astype(np.float64) @ values[name[:-2] + "_H"].astype(np.float64)
            arrays[f"product/{name[:-2]}"] = np.float32(product.reshape(info["parameter_dimensions"][name[:-2]]))
    for tensor in (tensor for unit in units for tensor in unit["tensors"]):
        name = tensor["name"]
        if tensor["temporal"]:
            arrays[f"base/{name}"] = state["base"]["parameters"][name]
        if tensor.get("history"):
            arrays[f"history/{name}"] = state["tool"].data_hist[name]
    return arrays


def flat(arrays: Arrays) -> Arrays:
    """Return the arrays one after the other, by type."""
    kinds: dict[str, list[np.ndarray]] = {}
    for array in arrays.values():
        kinds.setdefault(array.dtype.name, []).append(array.ravel())
    return {kind: np.concatenate(parts) for kind, parts in kinds.items()}


def entry(units: list[dict[str, Any]], arrays: Arrays) -> dict[str, Any]:
    """Return what the manifest says of one stream."""
    for unit in units:
        unit["tensors"] = [
            {key: value for key, value in tensor.items() if key not in USUAL or value != USUAL[key]}
            for tensor in unit["tensors"]
        ]
    listing = [[*key.split("/", 1), list(map(int, array.shape)), array.dtype.name] for key, array in arrays.items()]
    return {"units": units, "arrays": listing}
