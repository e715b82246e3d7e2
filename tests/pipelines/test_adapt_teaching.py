"""What the teacher's labels are, and what is mixed from them."""

import numpy as np
import torch

from fewmask.pipelines.adapt_teaching import mixed_lesson, pseudo_labels


def draw(seed=0):
    return np.random.default_rng(seed)


def teacher(n=3, c=4, h=6, w=8):
    torch.manual_seed(0)
    return (torch.randn(n, c, h, w) * torch.tensor([6.0, 3.0, 1.0, 0.5]).view(1, 4, 1, 1)).softmax(
        1
    )


class TestPseudoLabels:
    def test_each_class_keeps_the_same_share_however_sure_the_teacher_is_of_it(self):
        probs = teacher()
        labels, best = pseudo_labels(probs, 0.5), probs.argmax(1)
        for k in range(4):
            own = best == k
            share = (labels[own] == k).float().mean().item()
            assert 0.5 <= share < 0.5 + 2 / own.sum() + 0.05
            assert set(labels[own].tolist()) <= {k, 255}

    def test_what_is_kept_is_surer_than_what_is_not(self):
        probs = teacher()
        labels, (sure, best) = pseudo_labels(probs, 0.3), probs.max(1)
        for k in range(4):
            kept, left = sure[labels == k], sure[(best == k) & (labels == 255)]
            assert kept.min() >= left.max() - 1e-3

    def test_all(self):
        probs = teacher()
        assert torch.equal(pseudo_labels(probs, 1.0), probs.argmax(1))


class TestMixedLesson:
    def parts(self):
        torch.manual_seed(1)
        source, target = torch.rand(2, 3, 6, 8), torch.rand(3, 3, 6, 8)
        truth = torch.randint(0, 4, (2, 6, 8))
        truth[:, 0, :3] = 255
        labels = torch.randint(4, 7, (3, 6, 8))
        labels[:, :3] = 255
        return source, truth, target, labels

    def test_image_label_and_weight_come_from_the_same_domain_at_every_pixel(self):
        source, truth, target, labels = self.parts()
        lesson = mixed_lesson(source, truth, target, labels, draw())
        for i in range(3):
            s = i % 2
            pasted = (lesson.image[i] == source[s]).all(0)
            assert 0 < pasted.float().mean() < 1
            assert torch.equal(lesson.image[i][:, ~pasted], target[i][:, ~pasted])
            assert torch.equal(lesson.target[i][pasted], truth[s][pasted])
            assert torch.equal(lesson.target[i][~pasted], labels[i][~pasted])
            assert (lesson.weight[i][pasted] == 1).all()
            assert torch.allclose(lesson.weight[i][~pasted], torch.tensor(0.5))
            assert 255 not in truth[s][pasted]

    def test_whole_classes_are_pasted(self):
        source, truth, target, labels = self.parts()
        lesson = mixed_lesson(source, truth, target, labels, draw())
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
