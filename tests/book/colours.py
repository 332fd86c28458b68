"""How colours look: contrast (WCAG 2.2), the dark theme's filter (Filter Effects 1), colour blindness (Machado, Oliveira and
Fernandes 2009, full severity) and CIE's distance of 2000. Colours are sRGB in [0, 1]."""

import numpy as np

WEIGHTS = np.array([0.2126, 0.7152, 0.0722])
SIGHT = {
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def from_hex(code):
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def linear(colour):
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def encoded(light):
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def contrast(a, b):
    """WCAG's ratio, 1 to 21."""
    low, high = sorted((linear(a) @ WEIGHTS, linear(b) @ WEIGHTS))
    return (high + 0.05) / (low + 0.05)


def turned(colour, invert, degrees=180):
    """The colour after ``invert(...) hue-rotate(...)``."""
    colour = np.clip(colour * (1 - 2 * invert) + invert, 0, 1)
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    grey = np.tile([0.213, 0.715, 0.072], (3, 1))
    tilt = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    return np.clip((grey + cos * (np.eye(3) - grey) + sin * tilt) @ colour, 0, 1)


def seen(colour, sight):
    """The colour as a reader with this kind of colour vision sees it."""
    return encoded(SIGHT[sight] @ linear(colour))


def lab(colour):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear(colour)
    xyz = xyz / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def lab_distance(first, second):
    """CIEDE2000 of two colours in CIELAB (Sharma, Wu and Dalal 2005)."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    c_mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(c_mean**7 / (c_mean**7 + 25**7))
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.rad2deg(np.arctan2(b1, a1)) % 360, np.rad2deg(np.arctan2(b2, a2)) % 360
    grey = c1 * c2 < 1e-9
    turn = 0.0 if grey else (h2 - h1 + 180) % 360 - 180
    h = h1 + h2 if grey else (h1 + turn / 2) % 360
    length, c = (l1 + l2) / 2, (c1 + c2) / 2
    cos = lambda factor, shift: np.cos(np.deg2rad(factor * h - shift))  # noqa: E731
    weight = 1 - 0.17 * cos(1, 30) + 0.24 * cos(2, 0) + 0.32 * cos(3, -6) - 0.20 * cos(4, 63)
    light = (l2 - l1) / (1 + 0.015 * (length - 50) ** 2 / np.sqrt(20 + (length - 50) ** 2))
    chroma = (c2 - c1) / (1 + 0.045 * c)
    hue = 2 * np.sqrt(c1 * c2) * np.sin(np.deg2rad(turn / 2)) / (1 + 0.015 * c * weight)
    bend = np.sin(np.deg2rad(60 * np.exp(-(((h - 275) / 25) ** 2)))) * 2 * np.sqrt(c**7 / (c**7 + 25**7))
    return np.sqrt(light**2 + chroma**2 + hue**2 - bend * chroma * hue)


def distance(a, b):
    """CIEDE2000; about 2 is the least that is seen."""
    return lab_distance(lab(a), lab(b))
