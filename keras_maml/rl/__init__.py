"""Reinforcement learning: policies that adapt to a task in a few steps."""

from keras_maml.rl.actions import ContinuousActions
from keras_maml.rl.actions import DiscreteActions
from keras_maml.rl.environments.double_integrator import GoalVelocity
from keras_maml.rl.environments.environment import Environment
from keras_maml.rl.environments.environment import TaskSampler
from keras_maml.rl.environments.gymnasium_environment import (
    GymnasiumEnvironment,
)
from keras_maml.rl.environments.locomotion import AntDirection
from keras_maml.rl.environments.locomotion import HalfCheetahDirection
from keras_maml.rl.environments.locomotion import HalfCheetahVelocity
from keras_maml.rl.environments.navigation import PointNavigation
from keras_maml.rl.environments.tabular import TabularMDP
from keras_maml.rl.meta_policy_search import MetaPolicySearch
from keras_maml.rl.outer_updates import PPO
from keras_maml.rl.outer_updates import TRPO
from keras_maml.rl.outer_updates import OuterUpdate
from keras_maml.rl.policies import LogStd
from keras_maml.rl.policies import mlp_policy
from keras_maml.rl.returns import evaluate_returns
from keras_maml.rl.trajectories import Trajectories

__all__ = [
    "PPO",
    "TRPO",
    "AntDirection",
    "ContinuousActions",
    "DiscreteActions",
    "Environment",
    "GoalVelocity",
    "GymnasiumEnvironment",
    "HalfCheetahDirection",
    "HalfCheetahVelocity",
    "LogStd",
    "MetaPolicySearch",
    "OuterUpdate",
    "PointNavigation",
    "TabularMDP",
    "TaskSampler",
    "Trajectories",
    "evaluate_returns",
    "mlp_policy",
]
