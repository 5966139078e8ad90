"""Envs of one's own by name: which class it is, how it is made, and what an error says."""

import importlib
import sys

import gymnasium as gym
import pytest
from ray.rllib.env.env_context import EnvContext

from rllib_ppg.envs import env_creator
from rllib_ppg.envs.vector_env import is_vector_env_class, make_vector_env
from tests.support.algorithms import small
from tests.support.envs import Counting

MODULE = """
import gymnasium as gym
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from tests.support.envs import KeywordCounting, SameStepCounting

class Short(KeywordCounting):
    pass

class Vector(SameStepCounting):
    def __init__(self, num_envs, length=5):
        super().__init__({"num_envs": num_envs, "length": length})

class Agents(MultiAgentEnv):
    pass

def make_short(env_config):
    return Short(**env_config)

gym.register("OwnShort-v0", Short)
number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with an env, in which the command runs."""
    (tmp_path / "own_short.py").write_text(MODULE)
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").touch()
    (tmp_path / "own_package" / "inner.py").write_text(MODULE.replace("OwnShort", "OwnInner"))
    (tmp_path / "own_broken.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in [n for n in sys.modules if "own_" in n]:
        del sys.modules[name]
    for name in ("OwnShort-v0", "OwnInner-v0"):
        gym.registry.pop(name, None)


FORMS = [
    "own_short:Short", "own_short.Short", "own_short.py:Short", "own_short:OwnShort-v0",
    "own_short.py:OwnShort-v0", "own_package.inner:Short", "own_package.inner.Short",
    "own_package/inner.py:Short", "own_short:make_short", "own_short:Vector",
]  # fmt: skip


@pytest.mark.unit
@pytest.mark.parametrize("env", FORMS)
def test_every_form_makes_the_env_with_its_env_config(folder, env):
    config = small(env).environment(env_config={"length": 3})
    config.validate()
    assert is_vector_env_class(config) == env.endswith("Vector")
    made = make_vector_env(config)
    made.reset(seed=0)
    ends = [made.step(made.action_space.sample())[2].all() for _ in range(3)]
    made.close()
    assert ends == [False, False, True]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("Short", ["no env 'Short'", "module:Class", "file.py:Class"]),
        ("own_short:Shrot", ["own_short has no 'Shrot'", "did you mean 'Short'"]),
        ("own_short:Elsewhere", ["has no 'Elsewhere'", "it has Short, Vector"]),
        ("own_short.py", ["name its class", "own_short.py:Short"]),
        ("own_short:OwnShort-v9", ["OwnShort-v9", "v9"]),
        ("own_shrot:Short", ["there is no module own_shrot"]),
        ("own_package.outer:Short", ["there is no module own_package.outer"]),
        ("elsewhere.py:Short", ["there is no file elsewhere.py"]),
        ("own_broken:Short", ["own_broken can't be imported", "no_such_library"]),
        ("own_broken.py:Short", ["own_broken.py can't be imported", "no_such_library"]),
        ("own_short:number", ["an env is", "not 3"]),
        ("own_short:Agents", ["Agents is a multi-agent env"]),
    ],
)
def test_an_env_that_is_not_there(rllib, folder, env, words):
    run = rllib("train", "--algo", "PPG", "--env", env, "--dry-run")
    assert run.returncode == 2
    [line] = run.stderr.splitlines()
    for word in words:
        assert word in line


@pytest.mark.unit
def test_the_file_is_named_where_it_is_missing_later(folder, monkeypatch, tmp_path_factory):
    config = small("own_short:Short")
    config.validate()
    config = type(config).from_state(config.get_state())  # as a checkpoint keeps it
    monkeypatch.chdir(tmp_path_factory.mktemp("other"))
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(folder)])
    del sys.modules["own_short"]
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match=r"no module own_short in .*other.*; at training time"):
        config.validate()
    config.environment("own_short.py:Short")
    with pytest.raises(ValueError, match=rf"no file own_short.py; .* {folder}/own_short.py"):
        config.validate()


class Context(Counting):
    def __init__(self, env_config):
        assert env_config.worker_index == 7
        super().__init__(env_config)


class Underscore(Counting):
    def __init__(self, _):
        super().__init__({"length": 3})


class NoArguments(Counting):
    def __init__(self):
        super().__init__({"length": 3})


class RenderMode(Counting):
    def __init__(self, render_mode=None, *, length=5):
        assert render_mode is None
        super().__init__({"length": length})


class OnlyRenderMode(Counting):
    def __init__(self, render_mode=None):
        assert render_mode is None
        super().__init__({"length": 3})


class AnyName(Counting):
    def __init__(self, c=None):
        super().__init__(c)


class Required(Counting):
    def __init__(self, length, **others):
        super().__init__({"length": length})


class PassesOn(RenderMode):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class PassesConfigOn(Context):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("env", "given"),
    [
        (Context, {"length": 3}),
        (PassesConfigOn, {"length": 3}),
        (Underscore, {}),
        (NoArguments, {}),
        (RenderMode, {"length": 3}),
        (OnlyRenderMode, {}),
        (AnyName, {"length": 3}),
        (Required, {"length": 3}),
        (PassesOn, {"length": 3}),
    ],
)
def test_a_class_gets_env_config_as_its_signature_asks(env, given):
    creator = env_creator.env_creator(small(env))
    assert creator(EnvContext(given, worker_index=7)).length == 3


@pytest.mark.unit
@pytest.mark.parametrize(
    ("env", "given", "words"),
    [
        (RenderMode, {"lenght": 3}, "takes render_mode, length, .* 'lenght'; did you .* 'length'"),
        (NoArguments, {"length": 3}, "takes no arguments, and env_config has 'length'"),
    ],
)
def test_settings_that_a_class_does_not_take(env, given, words):
    config = small(env).environment(env_config=given)
    with pytest.raises(ValueError, match=words):
        config.validate()


@pytest.mark.unit
def test_env_config_on_the_command_line(rllib):
    words = ("--env", "procgen-coinrun-v0", "--env-config", "{num_level: 3}")
    assert "did you mean 'num_levels'" in rllib("train", "--algo", "PPG", *words).stderr


def test_all_env_runners_find_a_module(build):
    config = small("tests.support.envs:KeywordCounting").environment(env_config={"length": 4})
    config.evaluation(evaluation_interval=1, evaluation_duration=2, evaluation_num_env_runners=1)
    result = build(config).train()
    assert result["env_runners"]["episode_return_mean"] == 4
    assert result["evaluation"]["env_runners"]["episode_return_mean"] == 4


@pytest.mark.long
def test_an_id_that_only_the_script_knows(build):
    gym.register("OnlyHere-v0", Counting)
    with pytest.raises(ValueError, match=r"OnlyHere-v0.*tune\.register_env.*module:OnlyHere-v0"):
        build(small("OnlyHere-v0"))
