"""PPG's networks: one or two encoders, and the heads pi, vf and vf_aux (paper, sections 2 and 3.6).

    dual      pi_encoder -> pi, vf_aux      vf_encoder -> vf
    detach    pi_encoder -> pi, vf_aux, vf   (vf sees detached features)
    shared    pi_encoder -> pi, vf_aux, vf   (vf's gradient reaches the encoder, as in PPO)

Heads of auxiliary losses other than the paper's are on pi_encoder, too (`aux_heads`). Env runners
build only the part that acts: pi_encoder and pi. With `use_lstm`, each encoder ends in a recurrent
core.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

import gymnasium as gym
import tree
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.core.columns import Columns
from ray.rllib.core.models.base import ENCODER_OUT, Encoder
from ray.rllib.core.models.catalog import Catalog
from ray.rllib.core.models.configs import ModelConfig
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.annotations import override
from torch import Tensor, nn

from rllib_ppg.aux_losses.setting import VALUE, build_aux_losses, check_spaces
from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.envs.packed_observations import VECTOR, Packing, packing_of
from rllib_ppg.envs.spaces import check_action_space, is_image
from rllib_ppg.networks.action_mask import masked
from rllib_ppg.networks.image_values import image_bounds, scaled
from rllib_ppg.networks.impala_cnn import (
    CHANNELS,
    DENSE,
    ImpalaEncoder,
    ImpalaEncoderConfig,
    norm_init,
)
from rllib_ppg.networks.model_values import check_model_values
from rllib_ppg.networks.observation_filter import MeanStdFilter
from rllib_ppg.networks.parts_encoder import PartsEncoderConfig
from rllib_ppg.networks.recurrent_encoder import SEQUENCES, RecurrentEncoderConfig
from rllib_ppg.networks.recurrent_state import STATE_IN, STATE_OUT, VF_STATE_IN, VF_STATE_OUT
from rllib_ppg.networks.sequences import Sequences
from rllib_ppg.setting_values import format_value

ARCHITECTURES = ("dual", "detach", "shared")
VF_AUX_PREDS = "vf_aux_preds"

# Columns that `forward_train` can compute.
TRAIN_OUTPUTS = (Columns.ACTION_DIST_INPUTS, Columns.VF_PREDS, VF_AUX_PREDS, Columns.EMBEDDINGS)

# Heads of auxiliary losses: a checkpoint of a run with other losses has others.
AUX_HEADS = ("vf_aux", "aux_heads")

_LEARNERS_PARTS = ("vf_encoder", "vf", "vf_aux", "aux_heads")  # which env runners do not have

# Entries of `model_config` in addition to RLlib's `DefaultModelConfig`.
_OWN_MODEL_KEYS = {
    "arch": "dual",
    "aux_losses": {VALUE: 1.0},
    "detach_vf_in_aux_phase": True,
    "impala_channels": CHANNELS,
    "impala_dense": DENSE,
    "parts": {},
    "recurrent_cell": "lstm",
    "freeze": (),
    "observation_filter": "NoFilter",
}
_PART_KEYS = {*asdict(DefaultModelConfig()), "impala_channels", "impala_dense"}
_HEAD_SCALE = 0.1


def check_model_config(model_config: Mapping[str, Any]) -> None:
    """Raises ValueError for an entry that RLlib's default models and PPG's can't use."""
    known = {*asdict(DefaultModelConfig()), *_OWN_MODEL_KEYS}
    _check_entries(model_config, known, "model_config")
    parts = model_config.get("parts", {})
    if not isinstance(parts, Mapping):
        raise ValueError(f"model_config['parts'] is a dict, not {format_value(parts)}")
    for name, part in parts.items():
        where = f"model_config['parts'][{name!r}]"
        if not isinstance(part, Mapping):
            raise ValueError(f"{where} is a dict, not {format_value(part)}")
        _check_entries(part, _PART_KEYS, where)


def _check_entries(entries: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in entries:
        if key not in known:
            raise ValueError(f"{where} has no entry {key!r}{did_you_mean(str(key), known)}")
    check_model_values(entries, where)


class PPGCatalog(PPOCatalog):
    """RLlib's PPO catalog with the IMPALA CNN for images. Each call builds a separate encoder.

    `model_config` takes the entries of RLlib's `DefaultModelConfig` and, for images,
    `impala_channels` and `impala_dense`. With `conv_filters`, images get RLlib's own CNN.
    `recurrent_cell` is the kind of core with `use_lstm`: "lstm" or "gru".
    """

    _model_config_dict: dict[str, Any]
    _encoder_config: ModelConfig

    def __init__(
        self, observation_space: gym.Space, action_space: gym.Space, model_config_dict: dict
    ):
        check_action_space(action_space)  # of an env that the config's checks did not see, too
        super().__init__(observation_space, action_space, model_config_dict)

    @classmethod
    @override(Catalog)
    def _get_encoder_config(
        cls,
        observation_space: gym.Space,
        model_config_dict: dict,
        action_space: gym.Space | None = None,
    ) -> ModelConfig:
        if is_image(observation_space) and not model_config_dict.get("conv_filters"):
            return ImpalaEncoderConfig(
                input_dims=observation_space.shape,
                channels=model_config_dict.get("impala_channels", CHANNELS),
                dense=model_config_dict.get("impala_dense", DENSE),
                bounds=image_bounds(observation_space),
            )
        return Catalog._get_encoder_config(observation_space, model_config_dict, action_space)

    @override(Catalog)
    def _determine_components_hook(self) -> None:
        packing = packing_of(self.observation_space)
        config = self._model_config_dict
        self._model_config_dict = {**config, "use_lstm": False}  # the core is added here
        if packing is None:
            super()._determine_components_hook()
        else:
            self._determine_parts(packing)
        self._model_config_dict = config
        if config["use_lstm"]:
            self._encoder_config = RecurrentEncoderConfig(
                tokenizer=self._encoder_config, model_config={**_OWN_MODEL_KEYS, **config}
            )
            self.latent_dims = self._encoder_config.output_dims

    def _determine_parts(self, packing: Packing) -> None:
        config, differs = self._model_config_dict, self._model_config_dict.get("parts", {})
        parts = {**packing.images, VECTOR: packing.vector}
        self._encoder_config = PartsEncoderConfig(
            encoders={
                name: self._get_encoder_config(
                    observation_space=part.space,
                    model_config_dict={**config, **differs.get(name, {})},
                    action_space=self.action_space,
                )
                for name, part in parts.items()
                if part is not None
            }
        )
        self._action_dist_class_fn = partial(
            self._get_dist_cls_from_action_space, action_space=self.action_space
        )
        self.latent_dims = self._encoder_config.output_dims

    @override(Catalog)
    def build_encoder(self, framework: str) -> Encoder:
        return self._encoder_config.build(framework=framework)


class PPGTorchRLModule(TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """The default module of PPG.

    Entries of `model_config` in addition to those of `PPGCatalog`:

    - `arch`: dual, detach or shared; set it with `PPGConfig.training(arch=...)`.
    - `freeze`: Names of parts that are not trained, such as `["pi_encoder"]`.

    Raises:
        ValueError: `freeze` names something that is not part of the module.
    """

    _recurrent = False

    def __init__(self, *args: Any, **kwargs: Any):
        catalog_class = kwargs.pop("catalog_class", None) or PPGCatalog
        super().__init__(*args, **kwargs, catalog_class=catalog_class)

    @override(RLModule)
    def setup(self) -> None:
        config = _OWN_MODEL_KEYS | self.model_config
        self.arch: str = config["arch"]
        self.detach_vf_in_aux_phase: bool = config["detach_vf_in_aux_phase"]
        self._recurrent = config.get("use_lstm", False)
        self._image = is_image(self.observation_space)
        self._packing = packing_of(self.observation_space)
        parts = [*self._packing.images, VECTOR] if self._packing else []
        for name in config["parts"]:
            if name not in parts:
                raise ValueError(
                    f"model_config['parts'] names {name!r}, which is no part of the observations"
                    f"{did_you_mean(name, parts)}"
                )

        self.pi_encoder = self.catalog.build_encoder("torch")
        if self._recurrent and not self.pi_encoder.get_initial_state():
            raise ValueError(
                f"use_lstm is set, and {type(self.catalog).__name__}.build_encoder() builds an "
                "encoder without a memory: override _get_encoder_config() instead, which gets one"
            )
        self.pi = self.catalog.build_pi_head("torch")
        if self.arch == "dual":
            self.vf_encoder = self.catalog.build_encoder("torch")
        self.vf = self.catalog.build_vf_head("torch")
        heads = [self.pi, self.vf]
        aux_losses = build_aux_losses(config["aux_losses"])
        if VALUE in aux_losses:
            self.vf_aux = self.catalog.build_vf_head("torch")
            heads.append(self.vf_aux)
        for head in heads:
            norm_init([m for m in head.modules() if isinstance(m, nn.Linear)][-1], _HEAD_SCALE)
        self.observation_filter: nn.Module = nn.Identity()
        if config["observation_filter"] != "NoFilter":
            if self._image:
                raise ValueError("observation_filter is for vectors; images are scaled to [0, 1]")
            vector = self._packing.vector if self._packing else self.observation_space
            assert vector is not None  # as the config's checks say
            self.observation_filter = MeanStdFilter(vector.shape)
        check_spaces(aux_losses, self.observation_space, self.action_space)
        (num_features,) = self.catalog.latent_dims
        for name, loss in aux_losses.items():
            aux_head = loss.build_head(num_features, self.observation_space, self.action_space)
            if aux_head is not None:
                if not hasattr(self, "aux_heads"):
                    self.aux_heads = nn.ModuleDict()
                self.aux_heads[name] = aux_head
        self.aux_losses = aux_losses  # which may have kept something of their heads
        for name in config["freeze"]:
            self._freeze(name)

    @override(InferenceOnlyAPI)
    def get_non_inference_attributes(self) -> list[str]:
        return [part for part in _LEARNERS_PARTS if hasattr(self, part)]

    @override(RLModule)
    def get_initial_state(self) -> dict[str, Tensor]:
        return self.pi_encoder.get_initial_state() if self._recurrent else {}

    def get_initial_vf_state(self) -> dict[str, Tensor]:
        """The state that the value network has of its own, at the start of an episode."""
        has_own = self._recurrent and hasattr(self, "vf_encoder")
        return self.vf_encoder.get_initial_state() if has_own else {}

    @override(RLModule)
    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Acts. By RLlib's contract, recurrent modules get `[B, T, ...]` and return `[B, T, A]`."""
        obs, out = batch[Columns.OBS], {}
        if self._recurrent:
            B, T = next(iter(obs.values())).shape[:2] if isinstance(obs, Mapping) else obs.shape[:2]
            batch = {**batch, SEQUENCES: Sequences(T)}
            obs = tree.map_structure(lambda x: x.flatten(0, 1), obs)
        obs = self._network_inputs(obs)
        features, state = self._encode(self.pi_encoder, obs, batch)
        logits = masked(self.pi(features), obs)
        if self._recurrent:
            logits = logits.unflatten(0, (B, T))
            out[STATE_OUT] = state
        return {Columns.ACTION_DIST_INPUTS: logits, **out}

    @override(RLModule)
    def _forward_train(
        self,
        batch: dict[str, Any],
        *,
        outputs: Collection[str] | None = None,
        aux_phase: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Computes the given `outputs`, with the gradient flow of the phase.

        Args:
            batch: {"obs": `[B, ...]`}. Of a recurrent module, the frames of `sequences`, with
                `state_in` and, for a value network of its own, `vf_state_in` as RLlib's dicts.
            outputs: Some of `TRAIN_OUTPUTS`; None means all that the module has heads for.
            aux_phase: Whether this is the auxiliary phase. Then, with `arch="detach"` and
                `detach_vf_in_aux_phase=False`, the value head's gradient reaches the encoder.

        Returns:
            The outputs: `action_dist_inputs` `[B, A]`, `vf_preds` `[B]`, `vf_aux_preds` `[B]`, and
            the policy encoder's features, `embeddings` `[B, F]`. Of a recurrent module, also the
            states after each sequence: `state_out`, `vf_state_out`, of the networks that were used.
        """
        if outputs is None:
            outputs = [o for o in TRAIN_OUTPUTS if o != VF_AUX_PREDS or hasattr(self, "vf_aux")]
        out: dict[str, Any] = {}
        vf = Columns.VF_PREDS in outputs
        obs = self._network_inputs(batch[Columns.OBS])
        if self.arch != "dual" or {*outputs} - {Columns.VF_PREDS}:
            features, state = self._encode(self.pi_encoder, obs, batch)
            if self._recurrent:
                out[STATE_OUT] = state
        if Columns.EMBEDDINGS in outputs:
            out[Columns.EMBEDDINGS] = features
        if Columns.ACTION_DIST_INPUTS in outputs:
            out[Columns.ACTION_DIST_INPUTS] = masked(self.pi(features), obs)
        if VF_AUX_PREDS in outputs:
            out[VF_AUX_PREDS] = self.vf_aux(features).squeeze(-1)
        if vf and self.arch == "dual":
            features, state = self._encode(self.vf_encoder, obs, batch, VF_STATE_IN)
            if self._recurrent:
                out[VF_STATE_OUT] = state
        elif vf and self.arch == "detach" and (self.detach_vf_in_aux_phase or not aux_phase):
            features = features.detach()
        if vf:
            out[Columns.VF_PREDS] = self.vf(features).squeeze(-1)
        return out

    @override(ValueFunctionAPI)
    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Values `[B]` of the observations."""
        return self._forward_train(batch, outputs=(Columns.VF_PREDS,))[Columns.VF_PREDS]

    def _freeze(self, name: str) -> None:
        parts = dict(self.named_modules())
        if name not in parts or not name:
            known = {n for n in parts if n and "." not in n}
            raise ValueError(
                f"model_config['freeze'] names {name!r}, which is not part of the networks"
                f"{did_you_mean(name, known)}"
            )
        parts[name].requires_grad_(False)

    @cached_property
    def _image_bounds(self) -> dict[str, tuple[float, float]]:
        """Bounds of the images that are not scaled by their encoders, by the part's name."""
        if self._packing is None:
            return {Columns.OBS: image_bounds(self.observation_space)}
        return {name: image_bounds(part.space) for name, part in self._packing.images.items()}

    def _network_inputs(self, obs: Any) -> Any:
        """Observations as the encoders get them: images scaled to [0, 1], vectors filtered.

        Packed observations, or a dict of their parts, become such a dict.
        """
        tokenizer = getattr(self.pi_encoder, "tokenizer", self.pi_encoder)
        if self._packing is not None:
            parts = dict(obs) if isinstance(obs, Mapping) else self._packing.unpack(obs)
            dtype = next(self.pi_encoder.parameters()).dtype
            if VECTOR in parts:
                parts[VECTOR] = self.observation_filter(parts[VECTOR].to(dtype))
            encoders = dict(getattr(tokenizer, "parts", {}))  # a user's own may have none
            for name in self._packing.images:
                if not isinstance(encoders.get(name), ImpalaEncoder):
                    parts[name] = scaled(parts[name], self._image_bounds[name], dtype)
            return parts
        if isinstance(tokenizer, ImpalaEncoder):  # which scales images itself
            return obs
        dtype = next(self.pi_encoder.parameters()).dtype
        if self._image:
            return scaled(obs, self._image_bounds[Columns.OBS], dtype)
        return self.observation_filter(obs.to(dtype))

    def _encode(
        self, encoder: Encoder, obs: Any, batch: Mapping[str, Any], state_in: str = STATE_IN
    ) -> tuple[Tensor, Any]:
        """Features `[B, F]`, and the states after each sequence; None without a core."""
        inputs = {Columns.OBS: obs}
        if self._recurrent:
            inputs |= {STATE_IN: batch[state_in], SEQUENCES: batch[SEQUENCES]}
        out = encoder(inputs)
        return out[ENCODER_OUT], out.get(STATE_OUT)
