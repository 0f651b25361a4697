"""The public API: what there is, and that its signatures carry types."""

import inspect

import pytest

import keras_maml

# A change of this list is a change of the public API: say so in CHANGELOG.md.
PUBLIC = """
Comparison
ConformalPrediction
ContextParameters
EvaluationReport
MetaModel
TaskScores
Verdict
algorithms.anil
algorithms.boil
algorithms.cavia
algorithms.fomaml
algorithms.imaml
algorithms.maml
algorithms.maml_plus_plus
algorithms.meta_sgd
algorithms.proto_maml
algorithms.reptile
callbacks.AdaptationCurves
callbacks.FirstOrderUntil
callbacks.PreAdaptationMetrics
callbacks.Resume
compare
configure_threads
conformal_prediction
evaluate_episodes
evaluate_tasks
inner_optimizers.Adagrad
inner_optimizers.Adam
inner_optimizers.AdamW
inner_optimizers.GradientRule
inner_optimizers.InnerOptimizer
inner_optimizers.LearnedRate
inner_optimizers.RMSprop
inner_optimizers.SGD
inner_optimizers.get
learners.conv4
learners.mlp
meta_gradients.FirstOrder
meta_gradients.Implicit
meta_gradients.MetaGradient
meta_gradients.Reptile
meta_gradients.SecondOrder
meta_gradients.get
outer_loss.LastStep
outer_loss.MultiStep
outer_loss.OuterLoss
outer_loss.get
rl.AntDirection
rl.ContinuousActions
rl.DiscreteActions
rl.Environment
rl.GoalVelocity
rl.GymnasiumEnvironment
rl.HalfCheetahDirection
rl.HalfCheetahVelocity
rl.LogStd
rl.MetaPolicySearch
rl.OuterUpdate
rl.PPO
rl.PointNavigation
rl.TRPO
rl.TabularMDP
rl.TaskSampler
rl.Trajectories
rl.evaluate_returns
rl.mlp_policy
serving.AdaptiveModel
should_i_adapt
tasks.ClassPool
tasks.Episodes
tasks.FillMissing
tasks.GaussianTasks
tasks.Glyphs
tasks.Sinusoid
tasks.TableTasks
tasks.TaskDistribution
tasks.from_arrays
tasks.from_folder
tasks.from_recordings
tasks.from_table
tasks.from_tfds
tasks.preprocess_omniglot
"""


def public_api():
    """Dotted name, after `keras_maml.`, to each public class and function."""
    api = {}
    for name in keras_maml.__all__:
        value = getattr(keras_maml, name)
        if not inspect.ismodule(value):
            api[name] = value
            continue
        for member in getattr(value, "__all__", vars(value)):
            # Without an `__all__`: what the module defines itself.
            inner = getattr(value, member)
            if member.startswith("_") or inspect.ismodule(inner):
                continue
            if getattr(inner, "__module__", "").startswith("keras_maml"):
                api[f"{name}.{member}"] = inner
    return {name: value for name, value in api.items() if callable(value)}


API = public_api()


def signatures():
    """Functions, and the methods that are not Keras's own to declare."""
    for name, value in API.items():
        if not inspect.isclass(value):
            yield name, value
            continue
        foreign = {
            attribute
            for base in value.__mro__
            if not base.__module__.startswith("keras_maml")
            for attribute in vars(base)
        } - {"__init__"}
        for attribute, member in vars(value).items():
            member = getattr(member, "__func__", member)
            hidden = attribute.startswith("_") and attribute != "__init__"
            if inspect.isfunction(member) and not hidden:
                if attribute not in foreign:
                    yield f"{name}.{attribute}", member


SIGNATURES = dict(signatures())


def test_public_names():
    assert sorted(API) == PUBLIC.split()


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature_is_typed(name):
    signature = inspect.signature(SIGNATURES[name])
    untyped = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty
        and parameter.name not in ("self", "cls")
        and parameter.kind
        not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    assert not untyped
    if not name.endswith(".__init__"):
        assert signature.return_annotation is not signature.empty
