"""`parallel-metalearn` (PyTorch, `torch.func.vmap`) as a peer of `peer.py`.

Its meta-gradients agree with a plain loop of `torch.func` (float64: 1e-8, since
it keeps inner rates in float32; float32: 3e-7), in both orders, on dense and
on convolutional networks whose batch normalisation has its scale and shift as a
layer of its own. With PyTorch's `BatchNorm2d` as it is, the second-order
gradient is off by 1 %: a fault of `vmap` in PyTorch 2.13.
"""

import collections

import torch
from metalearn.algorithms import MAML
from metalearn.inner_optimizers.optimizers import InnerSGD
from torch_common import TorchPeer


class _Model(torch.nn.Module):
    """A network in the form that `MAML` calls."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, **kwargs):
        return {"logits": self.net(x), "buffers": {}}

    def get_fast_weights(self):
        return collections.OrderedDict(self.named_parameters())


class _Loss(torch.nn.Module):
    """A loss, and itself as the metric."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, out_dict, targets, **kwargs):
        loss = self.function(out_dict["logits"], targets)
        return loss, loss.detach()


class Peer(TorchPeer):
    """Its `MAML`, without its label encoder and data loader."""

    split_affine = True

    def setup(self):
        model = _Model(self.net)
        rate = InnerSGD(
            model.get_fast_weights(),
            inner_lr=self.spec.inner_lr,
            first_order=self.first_order,
            learn_lr=False,
        )
        # `TorchPeer` has the outer optimizer.
        unused = torch.optim.SGD(model.parameters(), lr=0.0)
        self.maml = MAML(
            model=model,
            optimizer=unused,
            inner_optimizer=rate,
            support_loss_fn=_Loss(self.loss),
            inner_steps=self.spec.inner_steps,
            device=torch.device("cpu"),
        )

    def backward(self, batch):
        loss, _ = self.maml.step(iter([batch]))
        return loss
