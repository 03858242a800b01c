"""The built-in models as torch modules; torch and transformers are imported inside the functions only.

Each builder returns a module in eval mode whose ``forward(pixel_values)`` takes float32 ``(batch, 3, height, width)``
and returns a tensor, or a tuple of tensors. ``weights_of`` gives the module that the tensors' names belong to: they are
the names that published checkpoints use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from wattwerk.errors import UnavailableError

if TYPE_CHECKING:
    from torch import nn


class Architecture(msgspec.Struct, frozen=True):
    """What the catalog knows of a built-in model before it builds it.

    Attributes:
        build: Returns the torch module, with torch's own random weights.
        task: ``classification``, ``detection`` or ``segmentation``.
        image_size: Height and width of the input, in pixels.
        outputs: Names of the outputs, in order.
    """

    build: Callable[[], nn.Module]
    task: str
    image_size: int
    outputs: tuple[str, ...] = ("logits",)


def weights_of(module: nn.Module) -> nn.Module:
    """Return the module whose state-dict names the catalog uses: the wrapped one, where there is a wrapper."""
    inner = getattr(module, "model", None)
    return inner if type(module).__name__ == "_Adapter" and inner is not None else module


def _adapt(model: Any, forward: Callable[[Any, Any], Any]) -> nn.Module:
    """Wrap a transformers model so that it takes pixel values and returns plain tensors."""
    from torch import nn

    class _Adapter(nn.Module):  # type: ignore[misc] # torch is not followed by mypy
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: Any) -> Any:
            return forward(self.model, pixel_values)

    return _Adapter().eval()


def _logits(model: Any, pixel_values: Any) -> Any:
    return model(pixel_values=pixel_values).logits


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UnavailableError(
            f"the torch form of this model needs torch and transformers ({error})", "pip install 'wattwerk[torch]'"
        ) from error
    return transformers


def _without_mask(model: Any) -> Any:
    """Let a model attend with torch's fused attention and no mask: every position of an image is valid.

    transformers builds an all-true mask whenever a graph is traced, which costs an export and a compiled module their
    fused kernels; for an attention of a name it does not know it builds none.
    """
    _transformers().AttentionInterface.register("wattwerk_unmasked", _attend)
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) == "sdpa":
            config._attn_implementation = "wattwerk_unmasked"
    return model


def _attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> tuple[Any, None]:
    """Attend over ``(batch, heads, length, width)`` and return ``(batch, length, heads, width)``."""
    from torch.nn.functional import scaled_dot_product_attention

    attended = scaled_dot_product_attention(query, key, value, scale=options.get("scaling"))
    return attended.transpose(1, 2).contiguous(), None


def mobilenet_v2() -> nn.Module:
    """Build MobileNetV2 1.0 as published in google/mobilenet_v2_1.0_224: 1001 classes, TensorFlow padding.

    Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
    """
    hf = _transformers()
    return _adapt(hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config(num_labels=1001)), _logits)


def _resnet(layer_type: str, depths: list[int], hidden_sizes: list[int]) -> nn.Module:
    hf = _transformers()
    config = hf.ResNetConfig(depths=depths, hidden_sizes=hidden_sizes, layer_type=layer_type, num_labels=1000)
    return _adapt(hf.ResNetForImageClassification(config), _logits)


def resnet_18() -> nn.Module:
    """Build ResNet-18 as in microsoft/resnet-18.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
    """
    return _resnet("basic", [2, 2, 2, 2], [64, 128, 256, 512])


def resnet_50() -> nn.Module:
    """Build ResNet-50 (v1.5: the stride sits in the 3x3 convolution) as in microsoft/resnet-50."""
    return _resnet("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048])


def resnet_152() -> nn.Module:
    """Build ResNet-152 as in microsoft/resnet-152."""
    return _resnet("bottleneck", [3, 8, 36, 3], [256, 512, 1024, 2048])


def vit_b_16() -> nn.Module:
    """Build ViT-B/16 at 224 x 224 as in google/vit-base-patch16-224.

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021.
    """
    hf = _transformers()
    config = hf.ViTConfig(num_labels=1000)
    return _adapt(_without_mask(hf.ViTForImageClassification(config)), _logits)


def segformer_b5() -> nn.Module:
    """Build SegFormer-B5 as in nvidia/segformer-b5-finetuned-ade-640-640: 150 classes, logits at a quarter of the size.

    Source: Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation, NeurIPS 2021.
    """
    hf = _transformers()
    config = hf.SegformerConfig(
        depths=[3, 6, 40, 3], hidden_sizes=[64, 128, 320, 512], decoder_hidden_size=768, image_size=640, num_labels=150
    )
    return _adapt(hf.SegformerForSemanticSegmentation(config), _logits)


def detr_r50() -> nn.Module:
    """Build DETR with a ResNet-50 backbone as in facebook/detr-resnet-50: 100 queries, 91 classes and "no object".

    The whole image is valid, so that no padding mask is computed, and the frozen normalisation of the backbone is
    torch's own BatchNorm2d in eval mode: the same arithmetic in one operator.

    Source: Carion et al., End-to-End Object Detection with Transformers, ECCV 2020.
    """
    hf = _transformers()
    backbone = hf.ResNetConfig(out_features=["stage4"])
    config = hf.DetrConfig(use_timm_backbone=False, backbone_config=backbone, num_labels=91)
    model = hf.DetrForObjectDetection(config)
    _thaw_normalisation(model)
    return _adapt(_without_mask(model), _detect)


def _thaw_normalisation(module: Any) -> None:
    from torch import nn

    for name, child in module.named_children():
        if "FrozenBatchNorm" in type(child).__name__:
            normalisation = nn.BatchNorm2d(len(child.weight), eps=1e-5)
            normalisation.load_state_dict(child.state_dict(), strict=False)
            setattr(module, name, normalisation)
        else:
            _thaw_normalisation(child)


def _detect(model: Any, pixel_values: Any) -> Any:
    """Return ``logits`` (batch, 100, 92) and ``pred_boxes`` (batch, 100, 4), the boxes as centre and size in [0, 1]."""
    detr = model.model
    features = detr.input_projection(detr.backbone.model(pixel_values).feature_maps[-1])
    batch, width = features.shape[:2]
    positions = _sine_positions(features, width // 2)
    encoded = detr.encoder(
        inputs_embeds=features.flatten(2).transpose(1, 2), spatial_position_embeddings=positions
    ).last_hidden_state
    queries = detr.query_position_embeddings.weight.unsqueeze(0).expand(batch, -1, -1)
    decoded = detr.decoder(
        inputs_embeds=features.new_zeros(batch, *queries.shape[1:]),
        encoder_hidden_states=encoded,
        spatial_position_embeddings=positions,
        object_queries_position_embeddings=queries,
    ).last_hidden_state
    return model.class_labels_classifier(decoded), model.bbox_predictor(decoded).sigmoid()


def _sine_positions(features: Any, half: int) -> Any:
    """Return the sine position embedding (1, height * width, 2 * half) of a feature map without padding.

    Source: Carion et al. 2020, supplement; temperature 10000, coordinates scaled to 2 pi.
    """
    import torch

    height, width = features.shape[-2:]
    like = {"device": features.device, "dtype": torch.float32}
    period = 10000.0 ** (2 * torch.arange(half // 2, **like).repeat_interleave(2) / half)
    phase = torch.arange(half, **like) % 2 * (math.pi / 2)  # a cosine is a sine a quarter of a turn ahead
    rows = torch.arange(1, height + 1, **like) * (2 * math.pi / (height + 1e-6))
    columns = torch.arange(1, width + 1, **like) * (2 * math.pi / (width + 1e-6))
    rows = (rows[:, None] / period + phase).sin()[:, None, :].expand(-1, width, -1)
    columns = (columns[:, None] / period + phase).sin()[None, :, :].expand(height, -1, -1)
    return torch.cat((rows, columns), dim=-1).reshape(1, height * width, 2 * half).to(features.dtype)


def yolov9_c() -> nn.Module:
    """Build YOLOv9-C; see ``wattwerk.catalog.yolov9``."""
    _transformers()
    from wattwerk.catalog.yolov9 import build

    return build()


ARCHITECTURES: Final[dict[str, Architecture]] = {
    "mobilenet-v2": Architecture(mobilenet_v2, "classification", 224),
    "resnet-18": Architecture(resnet_18, "classification", 224),
    "resnet-50": Architecture(resnet_50, "classification", 224),
    "resnet-152": Architecture(resnet_152, "classification", 224),
    "vit-b-16": Architecture(vit_b_16, "classification", 224),
    "detr-r50": Architecture(detr_r50, "detection", 800, ("logits", "pred_boxes")),
    "segformer-b5": Architecture(segformer_b5, "segmentation", 640),
    "yolov9-c": Architecture(yolov9_c, "detection", 640, ("boxes", "scores")),
}
