"""How well tasks are learned: mean and confidence interval of returns."""

from keras_maml.rl.environments.environment import Tasks
from keras_maml.rl.meta_policy_search import MetaPolicySearch
from keras_maml.rl.trajectories import mean_returns
from keras_maml.task_scores import TaskScores


def evaluate_returns(
    meta_policy: MetaPolicySearch,
    tasks: Tasks,
    inner_steps: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
) -> dict[int, TaskScores]:
    """Acts in tasks, and scores them before and after each inner step.

    Args:
        meta_policy: a `MetaPolicySearch`.
        tasks: structure of arrays `(T, ...)`, such as
            `environment.tasks(20, seed=1).sample(0)`.
        inner_steps: int. Defaults to the model's.
        episodes: int, the episodes in each task before and after each inner
            step. Defaults to the model's.
        seed: int from 0 to 2³² − 1. Defaults to `0`.

    Returns:
        A dict from 0, 1, ... `inner_steps` to the `TaskScores` after so many
        steps. The score of a task is its mean return, not discounted.

    Example:

    ```python
    environment = keras_maml.rl.GoalVelocity(horizon=10)
    meta_policy = keras_maml.rl.MetaPolicySearch(
        keras_maml.rl.mlp_policy(environment, hidden_units=(8,)), environment
    )
    held_out = environment.tasks(4, seed=1).sample(0)
    scores = keras_maml.rl.evaluate_returns(meta_policy, held_out)
    print(f"{scores[1].mean:.2f} ± {scores[1].ci95:.2f}")
    ```

    Reference:
        Finn et al., 2017, section 5.3 and figures 4 and 5.
    """
    collected = meta_policy.collect(tasks, inner_steps, episodes, seed)
    return {
        number: TaskScores(mean_returns(trajectories))
        for number, trajectories in enumerate(collected)
    }
