"""A small network of each of timm's modules: all of them train, are saved, and are loaded again."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from image_classifier.data.dataset import Sample
from tests.image_classifier.nets.trained import check_training_and_saving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("timm") and "CI" not in os.environ, reason="timm isn't installed"),
]

# Most take images of 64 pixels, whatever their own size is.
# fmt: off
SMALL = [
    "beit_base_patch16_224", "test_byobnet", "cait_xxs24_224", "coat_lite_tiny", "convit_tiny", "convmixer_768_32",
    "test_convnext", "cpubone_nano", "csatv2", "cs3darknet_focus_s", "cspnext_tiny", "davit_tiny",
    "deit_tiny_distilled_patch16_224", "densenet121", "dla46_c", "dpn48b", "edgenext_xx_small",
    "efficientformerv2_s0", "test_efficientnet", "efficientvim_m1", "efficientvit_b0", "efficientvit_m0",
    "vit_small_patch16_dinov3", "fasternet_t0", "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnet_050",
    "hardcorenas_a", "hgnet_tiny", "hiera_tiny_224", "sam2_hiera_tiny", "hrnet_w18_small", "iformer_t",
    "inception_next_atto", "lcnetv2_small", "levit_128s", "lowformer_b0", "test_mambaout", "maxvit_pico_rw_256",
    "caformer_s18", "gmlp_ti16_224", "mobilenetv3_small_050", "mobilevit_xxs", "mvitv2_tiny", "nest_tiny",
    "nextvit_small", "test_nfnet", "pit_ti_224", "pvt_v2_b0", "rdnet_tiny", "regnetx_002", "repghostnet_050",
    "repvit_m0_9", "res2net50_26w_4s", "resnest14d", "test_resnet", "resnetv2_18", "rexnet_100", "selecsls42",
    "legacy_seresnet18", "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_224", "tiny_vit_5m_224",
    "tnt_s_patch16_224", "tresnet_m", "twins_svt_small", "vgg11", "visformer_tiny", "test_vit",
    "vit_tiny_r_s16_p8_224", "test_vit_relpos", "vitamin_small_224", "volo_d1_224", "ese_vovnet19b_slim_dw",
    "xcit_nano_12_p16_224", "naflexvit_base_patch16_gap", "samvit_base_patch16_224", "xception41",
    "legacy_xception", "mobilenetv5_base",
]
# fmt: on
SIZES = {
    **dict.fromkeys(SMALL, 64),
    "halonet26t": 256,
    "crossvit_tiny_240": 240,
    "efficientformer_l1": 224,
    "inception_v3": 299,
    "inception_v4": 299,
}
# Their smallest networks have 56 to 412 million parameters, and the same kinds of layers as others.
TOO_LARGE = {"deepseek_vit", "gemma4_vit", "inception_resnet_v2", "nasnet", "pnasnet", "qwen3_vit"}


@pytest.mark.parametrize(("name", "size"), SIZES.items(), ids=list(SIZES))
def test_trained_network_is_saved_and_loaded_with_the_same_answers(
    name: str, size: int, samples: list[Sample], tmp_path: Path
) -> None:
    check_training_and_saving(f"timm:{name}", size, samples[:18], tmp_path)


def test_every_module_of_timm_is_tried() -> None:
    import timm

    modules = {timm.model_entrypoint(name).__module__.rpartition(".")[2] for name in SIZES}
    assert set(timm.list_modules()) == modules | TOO_LARGE
