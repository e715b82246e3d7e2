"""What the teacher's labels are, and what is mixed from them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fewmask.config import resolve
from fewmask.losses.segmentation import cross_entropy
from fewmask.pipelines import adapt_teaching
from fewmask.pipelines.adapt_config import PRESETS, AdaptConfig
from fewmask.pipelines.adapt_labels import RARE, Labelling, MeanOfNetworks, label_images
from fewmask.pipelines.adapt_teaching import (
    information,
    label_weights,
    mixed_lesson,
    pseudo_labels,
    teacher,
    trust_in,
    use_statistics_of,
)
from fewmask.training.inference import predict_probs


def draw(seed=0):
    return np.random.default_rng(seed)


def scores(n=3, c=4, h=6, w=8):
    torch.manual_seed(0)
    return (torch.randn(n, c, h, w) * torch.tensor([6.0, 3.0, 1.0, 0.5]).view(1, 4, 1, 1)).softmax(
        1
    )


class TestPseudoLabels:
    def test_each_class_keeps_the_same_share_however_sure_the_teacher_is_of_it(self):
        probs = scores()
        labels, best = pseudo_labels(probs, 0.5), probs.argmax(1)
        for k in range(4):
            own = best == k
            share = (labels[own] == k).float().mean().item()
            assert 0.5 <= share < 0.5 + 2 / own.sum() + 0.05
            assert set(labels[own].tolist()) <= {k, 255}

    def test_what_is_kept_is_surer_than_what_is_not(self):
        probs = scores()
        labels, (sure, best) = pseudo_labels(probs, 0.3), probs.max(1)
        for k in range(4):
            kept, left = sure[labels == k], sure[(best == k) & (labels == 255)]
            assert kept.min() >= left.max() - 1e-3

    def test_all(self):
        probs = scores()
        assert torch.equal(pseudo_labels(probs, 1.0), probs.argmax(1))


class TestMixedLesson:
    def parts(self):
        torch.manual_seed(1)
        source, target = torch.rand(2, 3, 6, 8), torch.rand(3, 3, 6, 8)
        truth = torch.randint(0, 4, (2, 6, 8))
        truth[:, 0, :3] = 255
        labels = torch.randint(4, 7, (3, 6, 8))
        labels[:, :3] = 255
        return source, truth, target, labels, torch.rand(3, 6, 8)

    def test_image_label_and_weight_come_from_the_same_domain_at_every_pixel(self):
        source, truth, target, labels, weights = self.parts()
        lesson = mixed_lesson(source, truth, target, labels, weights, draw())
        for i in range(3):
            s = i % 2
            pasted = (lesson.image[i] == source[s]).all(0)
            assert 0 < pasted.float().mean() < 1
            assert torch.equal(lesson.image[i][:, ~pasted], target[i][:, ~pasted])
            assert torch.equal(lesson.target[i][pasted], truth[s][pasted])
            assert torch.equal(lesson.target[i][~pasted], labels[i][~pasted])
            assert (lesson.weight[i][pasted] == 1).all()
            assert torch.equal(lesson.weight[i][~pasted], weights[i][~pasted])
            assert 255 not in truth[s][pasted]

    def test_whole_classes_are_pasted(self):
        source, truth, target, labels, weights = self.parts()
        lesson = mixed_lesson(source, truth, target, labels, weights, draw())
        pasted = set(lesson.target[0].unique().tolist()) & {0, 1, 2, 3}
        assert len(pasted) == 2
        for k in pasted:
            assert (lesson.target[0][truth[0] == k] == k).all()

    def test_the_classes_are_a_function_of_the_generator(self):
        parts = self.parts()
        first, second = (mixed_lesson(*parts, draw(5)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        others = [mixed_lesson(*parts, draw(seed)).target for seed in range(6)]
        assert any(not torch.equal(first.target, other) for other in others)

    def test_inputs_are_left_as_they_are(self):
        parts = self.parts()
        copies = [part.clone() for part in parts]
        mixed_lesson(*parts, draw())
        assert all(torch.equal(a, b) for a, b in zip(parts, copies, strict=True))


class TestTrust:
    def test_is_the_share_of_sure_pixels(self):
        probs = torch.tensor([[[[0.95, 0.6]], [[0.05, 0.4]]], [[[0.1, 0.01]], [[0.9, 0.99]]]])
        assert trust_in(probs, probs.argmax(1), 0.9).tolist() == [0.5, 0.5]
        assert trust_in(probs, probs.argmax(1), 0.5).tolist() == [1, 1]

    def test_of_labels_that_are_left_out_none_is_sure(self):
        labels = torch.tensor([[[0, 255]]])
        assert trust_in(torch.ones(1, 1, 1, 2), labels, 0).tolist() == [0.5]


class TestLabelWeights:
    labels = torch.tensor([[[0, 255]], [[255, 1]]])

    def test_what_is_left_out_weighs_a_fraction_of_the_trust_in_its_image(self):
        weights = label_weights(self.labels, torch.tensor([0.5, 0.8]), 0.25)
        assert weights.tolist() == [[[0.5, 0.125]], [[pytest.approx(0.2), pytest.approx(0.8)]]]

    def test_or_nothing(self):
        weights = label_weights(self.labels, torch.ones(2), 0.0)
        assert weights.tolist() == [[[1, 0]], [[0, 1]]]


class Net(nn.Module):
    """Class 0 where an image is dark, 1 where it is bright, after batch normalisation."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image):
        level = self.norm(image.mean(1, keepdim=True)) * self.scale
        return torch.cat([-4 * level, 4 * level], 1)


def halves(n, dark=40, bright=80, size=8):
    """Images (n, size, size, 3): dark left, bright right."""
    images = np.full((n, size, size, 3), dark, np.uint8)
    images[:, :, size // 2 :] = bright
    return images


class TestStatistics:
    def test_a_network_blind_to_a_dark_domain_sees_by_its_statistics(self):
        net, images = Net().eval(), halves(5)
        net.norm.running_mean += 0.7  # of a bright domain: here all is class 0
        assert (label_images(net, images, range(5), 2, Labelling()) == 0).all()
        use_statistics_of(net, images, range(5))
        labels = label_images(net, images, range(5), 2, Labelling())
        assert (labels[:, :, :4] == 0).all()
        assert (labels[:, :, 4:] == 1).all()
        assert net.norm.running_mean.item() == pytest.approx(60 / 255)
        assert not net.training


class TestLabels:
    def test_only_the_surest_share_of_each_class_over_all_images_is_kept(self):
        images = np.concatenate([halves(2), halves(2, 55, 65)])  # clear images, faint images
        net = Net().eval()
        use_statistics_of(net, images, range(4))
        labels = label_images(net, images, [0, 1, 2, 3], 2, Labelling(0.5, "mirror"))
        assert (labels[:2, :, 4:] == 1).all()
        assert (labels[2:] == 255).all()

    def test_a_prior_tips_what_is_unsure(self):
        net, images = Net().eval(), halves(2)
        net.scale.data *= 0.0
        prior = np.full((2, 8, 8), 0.2, np.float32)
        prior[1, :4] = 0.8
        labels = label_images(net, images, range(2), 2, Labelling(prior=prior))
        assert (labels[:, :4] == 1).all()
        assert (labels[:, 4:] == 0).all()

    def test_rows_are_labelled_in_their_order(self):
        images = np.concatenate([halves(1), halves(1)[:, :, ::-1]])
        net = Net().eval()
        use_statistics_of(net, images, [0, 1])
        labels = label_images(net, images, [1, 0], 2, Labelling())
        assert (labels[0, :, 0], labels[1, :, 0]) == (pytest.approx(1), pytest.approx(0))

    def test_sizes_are_averaged(self):
        """A network that calls larger images 1: at 1 and twice 2, two of three votes."""

        class BySize(Net):
            def forward(self, image):
                logits = torch.zeros(len(image), 2, *image.shape[2:])
                logits[:, int(image.shape[3] > 8)] = 3.0
                return logits

        images = halves(2)
        assert (label_images(BySize(), images, [0], 2, Labelling()) == 0).all()
        assert (label_images(BySize(), images, [0], 2, Labelling(sizes=(1, 2, 2))) == 1).all()

    def test_networks_together_have_the_mean_of_their_probabilities(self):
        """Two that give class 0 a probability of .9 and .2: together .55, whichever is louder."""
        networks = [Fixed([0.9, 0.1], [0.3, 0.7]), Fixed([0.2, 0.8], [0.6, 0.4])]
        both = MeanOfNetworks(networks)
        probs = predict_probs(both, torch.zeros(1, 3, 8, 8))
        assert probs[0, 0, :, :4].numpy() == pytest.approx(0.55)
        assert probs[0, 0, :, 4:].numpy() == pytest.approx(0.45)
        labels = label_images(both, halves(1), [0], 2, Labelling())[0]
        assert (labels[:, :4] == 0).all()
        assert (labels[:, 4:] == 1).all()

    def test_a_walk_labels_what_is_unsure_by_the_image_and_takes_nothing_from_a_rare_class(self):
        """Unsure pixels, called 0, lie on the bright half whose sure pixels are 1; a rare 2 too."""
        images = halves(1, size=32)
        log = torch.full((1, 3, 32, 32), 0.0)
        log[:, 0, :, :16], log[:, 1, :, 16:] = 9.0, 9.0
        log[0, :, 4:10, 20:26] = torch.tensor([0.2, 0.1, 0.0]).view(3, 1, 1)
        log[0, :, 20, 20:25] = torch.tensor([0.0, 0.1, 0.3]).view(3, 1)
        log[0, 2, 25, 24:30] = 12.0
        assert (log.argmax(1) == 2).float().mean() < RARE

        class Given(Net):
            def forward(self, image):
                return log.expand(len(image), -1, -1, -1)

        plain = label_images(Given(), images, [0], 3, Labelling(0.5))[0]
        assert (plain[4:10, 20:26] == 255).all()
        walked = label_images(Given(), images, [0], 3, Labelling(0.5, walk=True))[0]
        assert (walked[4:10, 20:26] == 1).all()
        assert (walked[20, 20:25] == 255).all()
        assert (walked[25, 24:30] == 2).all()
        assert (walked[:, :16] == 0).all()


class Fixed(Net):
    """The same probabilities for every pixel of the left half, others for the right."""

    def __init__(self, left, right):
        super().__init__()
        self.log = [torch.tensor(half).log() for half in (left, right)]

    def forward(self, image):
        n, _, h, w = image.shape
        left, right = (half.view(1, -1, 1, 1).expand(n, -1, h, w // 2) for half in self.log)
        return torch.cat([left, right], 3)


class TestInformation:
    def test_is_the_mutual_information_of_pixel_and_class(self):
        left, right = [0.9, 0.1], [0.2, 0.8]
        mean = [(a + b) / 2 for a, b in zip(left, right, strict=True)]
        naive = sum(
            p * math.log(p / m) / 2
            for half in (left, right)
            for p, m in zip(half, mean, strict=True)
        )
        found = information(Fixed(left, right), halves(11), range(11))
        assert found == pytest.approx(naive, rel=1e-5)

    def test_sure_of_two_halves_is_one_bit_and_sure_of_one_class_is_none(self):
        sure = Fixed([1 - 1e-9, 1e-9], [1e-9, 1 - 1e-9])
        assert information(sure, halves(2), range(2)) == pytest.approx(math.log(2), rel=1e-4)
        eaten = Fixed([1 - 1e-9, 1e-9], [1 - 1e-9, 1e-9])
        assert information(eaten, halves(2), range(2)) == pytest.approx(0, abs=1e-5)

    def test_only_the_asked_images_count(self):
        images = np.concatenate([halves(1), np.full((1, 8, 8, 3), 40, np.uint8)])
        net = Net().eval()
        use_statistics_of(net, images[:1], [0])
        assert information(net, images, [0]) > 0.5 > 0.1 > information(net, images, [1])


class TestTeach:
    def parts(self, **changes):
        config = resolve(AdaptConfig, PRESETS, "smoke", overrides=changes)
        work = SimpleNamespace(config=config, images=halves(6))
        image = torch.rand(2, 3, 8, 8)
        target = torch.randint(0, 2, (2, 8, 8))
        student, average = Net().train(), Net()
        return teacher(work, range(6), "taught"), (3, image, target, student, average)

    def test_the_student_gets_a_gradient_and_the_teacher_none(self):
        teach, arguments = self.parts()
        teach(*arguments).backward()
        student, average = arguments[3:]
        assert student.scale.grad is not None
        assert average.scale.grad is None

    @pytest.mark.parametrize("by_batch", [True, False])
    def test_the_teachers_statistics_stay(self, by_batch):
        teach, arguments = self.parts(adapt_target_statistics=by_batch)
        average = arguments[4]
        before = average.norm.running_mean.clone(), average.norm.running_var.clone()
        teach(*arguments)
        assert torch.equal(average.norm.running_mean, before[0])
        assert torch.equal(average.norm.running_var, before[1])

    def test_the_teacher_labels_by_the_statistics_of_its_batch(self, monkeypatch):
        seen = {}

        def keep(probs, share):
            seen["labels"] = probs.argmax(1)
            return pseudo_labels(probs, share)

        monkeypatch.setattr(adapt_teaching, "pseudo_labels", keep)
        for by_batch in (True, False):
            teach, arguments = self.parts(adapt_target_statistics=by_batch)
            arguments[4].norm.running_mean += 0.7
            teach(*arguments)
            assert (len(seen["labels"].unique()) == 2) is by_batch

    def test_a_step_is_a_function_of_its_number(self):
        teach, arguments = self.parts()
        torch.manual_seed(5)
        first = teach(*arguments)
        torch.manual_seed(6)
        assert torch.equal(teach(*arguments), first)
        assert not torch.equal(teach(4, *arguments[1:]), first)

    def test_the_prior_decides_where_the_teacher_cannot_and_moves_with_the_image(self, monkeypatch):
        seen = {}

        def keep(probs, share):
            seen["labels"] = probs.argmax(1)
            return pseudo_labels(probs, share)

        monkeypatch.setattr(adapt_teaching, "pseudo_labels", keep)
        prior = np.full((2, 8, 8), 0.1, np.float32)
        prior[0, :, :4] = prior[1, :, 4:] = 0.9  # dark is left of bright
        config = resolve(AdaptConfig, PRESETS, "smoke", overrides={"adapt_batch_size": 6})
        images = np.concatenate([halves(5, 40, 200), np.full((1, 8, 8, 3), 120, np.uint8)])
        work = SimpleNamespace(config=config, images=images)
        batch = torch.rand(2, 3, 8, 8), torch.randint(0, 2, (2, 8, 8))
        student, average = Net().train(), Net()
        average.scale.data *= 0.0  # sure of nothing: all is left to the prior
        mirrored = set()
        for step in range(8):
            teacher(work, range(5), "taught", prior)(step, *batch, student, average)
            for labels in seen["labels"]:
                columns = labels.float().mean(0)
                mirrored.add(bool(columns[0] > columns[-1]))
                assert {columns[0].item(), columns[-1].item()} == {0.0, 1.0}
        assert mirrored == {True, False}

    def test_the_weight_is_a_factor(self):
        (one, arguments), (two, _) = self.parts(), self.parts(adapt_weight=2.0)
        assert two(*arguments).item() == pytest.approx(2 * one(*arguments).item())

    @pytest.mark.parametrize("unsure", [0.0, 0.25])
    def test_labels_that_are_not_kept_count_less_or_not_at_all(self, monkeypatch, unsure):
        seen = {}

        def keep(logits, target, pixel_weight):
            seen["target"], seen["weight"] = target, pixel_weight
            return cross_entropy(logits, target, pixel_weight=pixel_weight)

        monkeypatch.setattr(adapt_teaching, "cross_entropy", keep)
        teach, arguments = self.parts(
            adapt_keep=0.5, adapt_unsure_weight=unsure, adapt_sure_above=0.0
        )
        arguments[2][:] = 255  # nothing is pasted
        teach(*arguments)
        labelled = seen["target"] != 255
        assert labelled.all() if unsure else 0.4 < labelled.float().mean() < 1
        weights = [seen["weight"][i].unique() for i in range(len(labelled))]
        assert any(len(found) == 2 for found in weights)
        for low, high in (found.tolist() for found in weights if len(found) == 2):
            assert low == pytest.approx(unsure * high)

    def test_without_trust_only_pasted_pixels_teach(self, monkeypatch):
        seen = {}

        def keep(logits, target, pixel_weight):
            seen["weight"] = pixel_weight
            return cross_entropy(logits, target, pixel_weight=pixel_weight)

        monkeypatch.setattr(adapt_teaching, "cross_entropy", keep)
        monkeypatch.setattr(adapt_teaching, "trust_in", lambda probs, *_: torch.zeros(len(probs)))
        teach, arguments = self.parts()
        teach(*arguments)
        assert set(seen["weight"].unique().tolist()) == {0, 1}
