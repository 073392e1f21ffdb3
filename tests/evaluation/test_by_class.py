import pytest
import torch

from fastgan.data import open_source
from fastgan.evaluation import classifier_accuracy_score, frechet_distance, frechet_within_classes
from fastgan.evaluation.features import gaussian


def test_the_mean_of_the_distances_within_classes():
    generator = torch.Generator().manual_seed(0)
    real, generated = torch.randn(2, 60, 3, generator=generator)
    labels, asked = torch.arange(60) % 3, torch.arange(60) // 20
    generated[asked == 2] += 5
    found = frechet_within_classes(real, labels, generated, asked)
    expected = [frechet_distance(gaussian(real[labels == k]), gaussian(generated[asked == k])) for k in range(3)]
    assert found.classes == pytest.approx(expected)
    assert found.value == pytest.approx(sum(expected) / 3)
    assert found.worst == 2


def test_images_of_the_wrong_classes_are_seen():
    """As sets the two are identical, and no class of one is that of the other."""
    images = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    images[20:] += 10
    labels = torch.arange(40) // 20
    assert frechet_within_classes(images, labels, images, labels).value == pytest.approx(0, abs=1e-12)
    assert frechet_within_classes(images, labels, images, 1 - labels).value > 150


def test_a_class_without_images_is_refused():
    images, labels = torch.randn(9, 2), torch.arange(9) % 3
    with pytest.raises(ValueError, match="class 2 has 3 real and 0 generated"):
        frechet_within_classes(images, labels, images[:6], labels[:6] % 2)


def test_the_accuracy_of_a_classifier_that_saw_generated_images_alone():
    """Real digits score what real digits score; in colour and of eight classes too; with wrong labels nothing is learnt."""
    sets = []
    for split in ("train", "held-out"):
        source = open_source("digits", split=split)
        chosen = [index for index in range(len(source)) if source.labels[index] < 8][:400]
        images = torch.stack([torch.tensor(source.read(index)).permute(2, 0, 1) for index in chosen])
        sets.append((images.expand(-1, 3, -1, -1), torch.tensor(source.labels[chosen])))
    train, test = sets
    found = classifier_accuracy_score(train, train, test, 8)
    assert found.value == found.real > 0.9
    wrong = classifier_accuracy_score((train[0], train[1].roll(1)), train, test, 8)
    assert wrong.value < 0.5
    assert wrong.real == found.real
