"""Every model there is, in one literal table: pure data that imports nothing heavy.

A row names the file and class, the paper, the data and conditions it takes and the kind of its likelihood. Tests
check table = files = docs, both ways. `polymode models` prints it without importing torch.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from dataclasses import dataclass
from typing import Any

VERSION = "0.1.0"

# Data kinds, as `Spec.signature` spells them.
_LATTICE_VECTORS = ("vector/binary", "vector/levels")
_IMAGES = ("image/binary", "image/levels")
_VECTORS = ("vector/real", *_LATTICE_VECTORS)
_DISCRETE_SEQUENCES = ("tokens", "grid/tokens", "series/binary")
_DIFFUSED = (*_VECTORS, *_IMAGES, "image/real", "series/real", "series/binary", "waveform/levels", "table")
_ANY_CONDITION = ("label", "vector", "tokens")


@dataclass(frozen=True)
class Row:
    """One model: `takes` are data kinds, `conditions` the condition kinds, `likelihood` its kind on reals and on
    lattice data ("-" where it takes no such data). A model that `needs_condition` is nothing without one."""

    name: str
    path: str
    family: str
    title: str
    paper: str
    year: int
    takes: tuple[str, ...]
    conditions: tuple[str, ...]
    likelihood_real: str
    likelihood_lattice: str
    needs_condition: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Data kinds without their support: image, vector, tokens, table."""
        return tuple(dict.fromkeys(t.split("/")[0] for t in self.takes))

    @property
    def likelihoods(self) -> tuple[str, ...]:
        """The kinds of likelihood it can have."""
        return tuple(dict.fromkeys(k for k in (self.likelihood_real, self.likelihood_lattice) if k != "-"))


MODELS: tuple[Row, ...] = (
    Row("gaussian", "polymode.models.classical.gaussian:Gaussian", "classical",
        "Full-covariance Gaussian", "maximum likelihood; Anderson, An Introduction to Multivariate Statistics", 1958,
        (*_VECTORS, *_IMAGES, "series/real", "table"), ("label",), "exact", "lower bound"),
    Row("histogram", "polymode.models.classical.histogram:Histogram", "classical",
        "Independent histograms", "Freedman and Diaconis, On the histogram as a density estimator", 1981,
        (*_VECTORS, *_IMAGES, "series/real", *_DISCRETE_SEQUENCES, "table", "waveform/levels"), ("label",),
        "exact", "exact"),
    Row("gmm", "polymode.models.classical.gmm:GMM", "classical",
        "Gaussian mixture by EM", "Dempster, Laird and Rubin, Maximum likelihood from incomplete data", 1977,
        (*_VECTORS, *_IMAGES, "series/real", "table"), ("label",), "exact", "lower bound"),
    Row("kde", "polymode.models.classical.kde:KDE", "classical",
        "Gaussian kernel density estimate", "Parzen, On estimation of a probability density function and mode", 1962,
        (*_VECTORS, *_IMAGES, "series/real", "table"), ("label",), "exact", "lower bound"),
    Row("ppca", "polymode.models.classical.ppca:PPCA", "classical",
        "Probabilistic principal components", "Tipping and Bishop, Probabilistic principal component analysis", 1999,
        (*_VECTORS, *_IMAGES, "series/real", "table"), ("label",), "exact", "lower bound"),
    Row("factor_analysis", "polymode.models.classical.factor_analysis:FactorAnalysis", "classical",
        "Factor analysis by EM", "Rubin and Thayer, EM algorithms for ML factor analysis", 1982,
        (*_VECTORS, *_IMAGES, "series/real", "table"), ("label",), "exact", "lower bound"),
    Row("chow_liu", "polymode.models.classical.chow_liu:ChowLiu", "classical",
        "Best tree of dependences", "Chow and Liu, Approximating discrete probability distributions", 1968,
        (*_VECTORS, *_IMAGES, "series/real", *_DISCRETE_SEQUENCES, "table"), ("label",), "exact", "exact"),
    Row("hmm", "polymode.models.classical.hmm:HMM", "classical",
        "Hidden Markov model by EM", "Baum et al. 1970; Rabiner, A tutorial on hidden Markov models", 1989,
        (*_DISCRETE_SEQUENCES, "series/real", "waveform/levels"), ("label",), "exact", "exact"),
    Row("fvsbn", "polymode.models.autoregressive.fvsbn:FVSBN", "autoregressive",
        "Fully visible sigmoid belief network", "Neal 1992; Frey, Hinton and Dayan 1996; Bengio and Bengio 1999", 1996,
        (*_LATTICE_VECTORS, *_IMAGES, *_DISCRETE_SEQUENCES), _ANY_CONDITION, "-", "exact"),
    Row("nade", "polymode.models.autoregressive.nade:NADE", "autoregressive",
        "Neural autoregressive distribution estimator", "Larochelle and Murray, AISTATS; arXiv:1605.02226", 2011,
        ("vector/binary", "image/binary", "series/binary"), _ANY_CONDITION, "-", "exact"),
    Row("made", "polymode.models.autoregressive.made:MADE", "autoregressive",
        "Masked autoencoder for distribution estimation", "Germain et al., arXiv:1502.03509", 2015,
        (*_VECTORS, *_IMAGES, "series/real", *_DISCRETE_SEQUENCES, "table"), _ANY_CONDITION, "exact", "exact"),
    Row("ngram", "polymode.models.autoregressive.ngram:NGram", "autoregressive",
        "Counts of runs of symbols", "Shannon 1948; Witten and Bell 1991", 1991,
        (*_DISCRETE_SEQUENCES, *_LATTICE_VECTORS, *_IMAGES, "waveform/levels"), (), "-", "exact"),
    Row("gru", "polymode.models.autoregressive.gru:GRU", "autoregressive",
        "Recurrent sequence model", "Cho et al., arXiv:1406.1078; Graves, arXiv:1308.0850", 2014,
        (*_DISCRETE_SEQUENCES, *_LATTICE_VECTORS, *_IMAGES, "waveform/levels"), _ANY_CONDITION, "-", "exact"),
    Row("gpt", "polymode.models.autoregressive.gpt:GPT", "autoregressive",
        "Decoder-only transformer", "Radford et al. 2018; Vaswani et al., arXiv:1706.03762", 2018,
        (*_DISCRETE_SEQUENCES, *_LATTICE_VECTORS, *_IMAGES), _ANY_CONDITION, "-", "exact"),
    Row("gpt2", "polymode.models.autoregressive.gpt2:GPT2", "autoregressive",
        "GPT-2, which reads and writes its published files", "Radford et al., Language Models are Unsupervised "
        "Multitask Learners", 2019, ("tokens",), (), "-", "exact"),
    Row("bert", "polymode.models.autoregressive.bert:BERT", "autoregressive",
        "Masked transformer that fills in any order", "Devlin et al., arXiv:1810.04805; Hoogeboom et al. 2022", 2019,
        (*_DISCRETE_SEQUENCES, *_LATTICE_VECTORS, *_IMAGES), _ANY_CONDITION, "-", "lower bound"),
    Row("rnn_nade", "polymode.models.autoregressive.rnn_nade:RNNNADE", "autoregressive",
        "Recurrent net whose frames are drawn by NADE", "Boulanger-Lewandowski, Bengio and Vincent, arXiv:1206.6392",
        2012, ("series/binary",), _ANY_CONDITION, "-", "exact"),
    Row("wavenet", "polymode.models.autoregressive.wavenet:WaveNet", "autoregressive",
        "Dilated causal convolutions", "van den Oord et al., arXiv:1609.03499", 2016,
        ("waveform/levels", *_DISCRETE_SEQUENCES, *_LATTICE_VECTORS, *_IMAGES), (*_ANY_CONDITION, "series"),
        "-", "exact"),
    Row("transformer", "polymode.models.autoregressive.transformer:Transformer", "autoregressive",
        "Encoder-decoder transformer", "Vaswani et al., arXiv:1706.03762; See, Liu and Manning, arXiv:1704.04368", 2017,
        (*_DISCRETE_SEQUENCES, *_LATTICE_VECTORS, *_IMAGES), ("tokens",), "-", "exact", needs_condition=True),
    Row("pixelcnn", "polymode.models.autoregressive.pixelcnn:PixelCNN", "autoregressive",
        "Masked convolutions, gated or plain",
        "van den Oord et al., arXiv:1606.05328 and arXiv:1601.06759; Salimans et al., arXiv:1701.05517", 2016,
        (*_IMAGES, "grid/tokens"), _ANY_CONDITION, "-", "exact"),
    Row("pixelrnn", "polymode.models.autoregressive.pixelrnn:PixelRNN", "autoregressive",
        "LSTMs over rows or diagonals of an image", "van den Oord et al., arXiv:1601.06759", 2016,
        (*_IMAGES, "grid/tokens"), _ANY_CONDITION, "-", "exact"),
    Row("image_transformer", "polymode.models.autoregressive.image_transformer:ImageTransformer", "autoregressive",
        "Transformer with local attention over pixels", "Parmar et al., arXiv:1802.05751", 2018,
        (*_IMAGES, "grid/tokens"), _ANY_CONDITION, "-", "exact"),
    Row("vae", "polymode.models.vae.vae:VAE", "vae",
        "Variational autoencoder", "Kingma and Welling, arXiv:1312.6114", 2014,
        (*_VECTORS, *_IMAGES, "series/real", *_DISCRETE_SEQUENCES, "table"), _ANY_CONDITION,
        "lower bound", "lower bound"),
    Row("factor_vae", "polymode.models.vae.factor_vae:FactorVAE", "vae",
        "VAE charged for dependent codes by a discriminator", "Kim and Mnih, arXiv:1802.05983", 2018,
        (*_VECTORS, *_IMAGES, "series/real", *_DISCRETE_SEQUENCES, "table"), _ANY_CONDITION,
        "lower bound", "lower bound"),
    Row("beta_tcvae", "polymode.models.vae.beta_tcvae:BetaTCVAE", "vae",
        "VAE whose KL term is taken apart", "Chen et al., arXiv:1802.04942", 2018,
        (*_VECTORS, *_IMAGES, "series/real", *_DISCRETE_SEQUENCES, "table"), _ANY_CONDITION,
        "lower bound", "lower bound"),
    Row("ladder", "polymode.models.vae.ladder:LadderVAE", "vae",
        "Ladder VAE: layers of codes", "Sonderby et al., arXiv:1602.02282; Rezende et al., arXiv:1401.4082", 2016,
        (*_VECTORS, *_IMAGES, "series/real", *_DISCRETE_SEQUENCES, "table"), _ANY_CONDITION,
        "lower bound", "lower bound"),
    Row("vdvae", "polymode.models.vae.vdvae:VDVAE", "vae",
        "Very deep VAE of images", "Child, arXiv:2011.10650", 2021, _IMAGES, _ANY_CONDITION, "-", "lower bound"),
    Row("sequence_vae", "polymode.models.vae.sequence_vae:SequenceVAE", "vae",
        "Recurrent autoencoder of sequences with one code", "Bowman et al., arXiv:1511.06349", 2016,
        ("tokens",), _ANY_CONDITION, "-", "lower bound"),
    Row("dmm", "polymode.models.vae.dmm:DMM", "vae",
        "Deep Markov model", "Krishnan, Shalit and Sontag, arXiv:1609.09869", 2017,
        ("series/binary", "series/real"), _ANY_CONDITION, "lower bound", "lower bound"),
    Row("m2", "polymode.models.vae.m2:M2", "vae",
        "Semi-supervised autoencoder", "Kingma et al., arXiv:1406.5298", 2014,
        (*_VECTORS, *_IMAGES, "series/real", *_DISCRETE_SEQUENCES, "table"), ("label",),
        "lower bound", "lower bound", needs_condition=True),
    Row("m1_m2", "polymode.models.vae.m1_m2:M1M2", "vae",
        "Semi-supervised autoencoder of another's codes", "Kingma et al., arXiv:1406.5298", 2014,
        (*_VECTORS, *_IMAGES, "series/real", *_DISCRETE_SEQUENCES, "table"), ("label",),
        "lower bound", "lower bound", needs_condition=True),
    Row("dae", "polymode.models.vae.dae:DAE", "vae",
        "Denoising autoencoder", "Vincent et al., ICML; Bengio et al., arXiv:1305.6663", 2008,
        (*_VECTORS, *_IMAGES, "series/real", *_DISCRETE_SEQUENCES, "table"), _ANY_CONDITION, "none", "none"),
    Row("gsn", "polymode.models.vae.gsn:GSN", "vae",
        "Generative stochastic network", "Bengio et al., arXiv:1306.1091", 2014,
        (*_VECTORS, *_IMAGES, "series/real", *_DISCRETE_SEQUENCES, "table"), _ANY_CONDITION, "none", "none"),
    Row("mae", "polymode.models.vae.mae:MAE", "vae",
        "Masked autoencoder of patches", "He et al., arXiv:2111.06377; Hoogeboom et al., arXiv:2110.02037", 2022,
        _IMAGES, _ANY_CONDITION, "-", "lower bound"),
    Row("gan", "polymode.models.gan.gan:GAN", "gan",
        "Generative adversarial network", "Goodfellow et al., arXiv:1406.2661; Radford et al., arXiv:1511.06434", 2014,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "none", "none"),
    Row("lsgan", "polymode.models.gan.lsgan:LSGAN", "gan",
        "Least squares GAN", "Mao et al., arXiv:1611.04076", 2017,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "none", "none"),
    Row("wgan", "polymode.models.gan.wgan:WGAN", "gan",
        "Wasserstein GAN, clipped", "Arjovsky, Chintala and Bottou, arXiv:1701.07875", 2017,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "none", "none"),
    Row("wgan_gp", "polymode.models.gan.wgan_gp:WGANGP", "gan",
        "Wasserstein GAN with gradient penalty", "Gulrajani et al., arXiv:1704.00028", 2017,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "none", "none"),
    Row("dragan", "polymode.models.gan.dragan:DRAGAN", "gan",
        "GAN with a penalty around data", "Kodali et al., arXiv:1705.07215", 2017,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "none", "none"),
    Row("sngan", "polymode.models.gan.sngan:SNGAN", "gan",
        "Spectrally normalised GAN", "Miyato et al., arXiv:1802.05957", 2018,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "none", "none"),
    Row("pacgan", "polymode.models.gan.pacgan:PacGAN", "gan",
        "GAN with packed rows", "Lin et al., arXiv:1712.04086", 2018,
        (*_VECTORS, *_IMAGES, "series/real", "table"), (), "none", "none"),
    Row("unrolled_gan", "polymode.models.gan.unrolled_gan:UnrolledGAN", "gan",
        "GAN with an unrolled discriminator", "Metz et al., arXiv:1611.02163", 2017,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "none", "none"),
    Row("improved_gan", "polymode.models.gan.improved_gan:ImprovedGAN", "gan",
        "GAN with feature matching", "Salimans et al., arXiv:1606.03498", 2016,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "none", "none"),
    Row("dcgan", "polymode.models.gan.dcgan:DCGAN", "gan",
        "Deep convolutional GAN", "Radford, Metz and Chintala, arXiv:1511.06434", 2016,
        _IMAGES, _ANY_CONDITION, "none", "none"),
    Row("infogan", "polymode.models.gan.infogan:InfoGAN", "gan",
        "GAN whose samples tell their code", "Chen et al., arXiv:1606.03657", 2016,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "none", "none"),
    Row("acgan", "polymode.models.gan.acgan:ACGAN", "gan",
        "GAN with an auxiliary classifier", "Odena, Olah and Shlens, arXiv:1610.09585", 2017,
        (*_VECTORS, *_IMAGES, "series/real", "table"), ("label",), "none", "none", needs_condition=True),
    Row("bigan", "polymode.models.gan.bigan:BiGAN", "gan",
        "GAN with an encoder, judged in pairs", "Donahue et al., arXiv:1605.09782; Dumoulin et al., arXiv:1606.00704",
        2017, (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "none", "none"),
    Row("aae", "polymode.models.gan.aae:AAE", "gan",
        "Adversarial autoencoder", "Makhzani et al., arXiv:1511.05644", 2016,
        (*_VECTORS, *_IMAGES, "series/real", *_DISCRETE_SEQUENCES, "table"), _ANY_CONDITION, "none", "none"),
    Row("sagan", "polymode.models.gan.sagan:SAGAN", "gan",
        "Residual GAN with self-attention", "Zhang et al., arXiv:1805.08318", 2019,
        _IMAGES, _ANY_CONDITION, "none", "none"),
    Row("biggan", "polymode.models.gan.biggan:BigGAN", "gan",
        "Residual GAN with noise in every block", "Brock, Donahue and Simonyan, arXiv:1809.11096", 2019,
        _IMAGES, _ANY_CONDITION, "none", "none"),
    Row("stylegan", "polymode.models.gan.stylegan:StyleGAN", "gan",
        "GAN whose layers take styles", "Karras, Laine and Aila, arXiv:1812.04948", 2019,
        _IMAGES, _ANY_CONDITION, "none", "none"),
    Row("stylegan2", "polymode.models.gan.stylegan2:StyleGAN2", "gan",
        "GAN whose styles modulate convolutions", "Karras et al., arXiv:1912.04958 and arXiv:2006.06676", 2020,
        _IMAGES, _ANY_CONDITION, "none", "none"),
    Row("pix2pix", "polymode.models.gan.pix2pix:Pix2Pix", "gan",
        "A picture given another, learned from pairs", "Isola et al., arXiv:1611.07004", 2017,
        _IMAGES, ("image",), "-", "none", needs_condition=True),
    Row("cyclegan", "polymode.models.gan.cyclegan:CycleGAN", "gan",
        "Two collections of pictures, each as the other", "Zhu et al., arXiv:1703.10593", 2017,
        _IMAGES, ("image",), "-", "none", needs_condition=True),
    Row("srgan", "polymode.models.gan.srgan:SRGAN", "gan",
        "A large picture given a small one", "Ledig et al., arXiv:1609.04802", 2017,
        _IMAGES, ("image",), "-", "none", needs_condition=True),
    Row("stargan", "polymode.models.gan.stargan:StarGAN", "gan",
        "Pictures of each class as those of any other", "Choi et al., arXiv:1711.09020", 2018,
        _IMAGES, ("label",), "-", "none", needs_condition=True),
    Row("realnvp", "polymode.models.flow.realnvp:RealNVP", "flow",
        "Real-valued non-volume-preserving flow", "Dinh, Sohl-Dickstein and Bengio, arXiv:1605.08803", 2017,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "exact", "lower bound"),
    Row("maf", "polymode.models.flow.maf:MAF", "flow",
        "Masked autoregressive flow", "Papamakarios, Pavlakou and Murray, arXiv:1705.07057", 2017,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "exact", "lower bound"),
    Row("iaf", "polymode.models.flow.iaf:IAF", "flow",
        "Inverse autoregressive flow", "Kingma et al., arXiv:1606.04934", 2016,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "exact", "lower bound"),
    Row("nsf", "polymode.models.flow.nsf:NSF", "flow",
        "Neural spline flow", "Durkan et al., arXiv:1906.04032; Rezende et al., arXiv:2002.02428 (angles)", 2019,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "exact", "lower bound"),
    Row("nice", "polymode.models.flow.nice:NICE", "flow",
        "Volume-keeping additive couplings", "Dinh, Krueger and Bengio, arXiv:1410.8516", 2014,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "exact", "lower bound"),
    Row("planar", "polymode.models.flow.planar:PlanarFlow", "flow",
        "Planar and radial flows", "Rezende and Mohamed, arXiv:1505.05770", 2015,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "exact", "lower bound"),
    Row("glow", "polymode.models.flow.glow:Glow", "flow",
        "Flow with invertible 1x1 convolutions", "Kingma and Dhariwal, arXiv:1807.03039", 2018,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "exact", "lower bound"),
    Row("residual", "polymode.models.flow.residual:ResidualFlow", "flow",
        "Invertible residual networks", "Behrmann et al., arXiv:1811.00995; Chen et al., arXiv:1906.02735", 2019,
        (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "exact", "lower bound"),
    Row("ffjord", "polymode.models.flow.ffjord:FFJORD", "flow",
        "Continuous flow of a free-form field", "Grathwohl et al., arXiv:1810.01367; Chen et al., arXiv:1806.07366",
        2019, (*_VECTORS, *_IMAGES, "series/real", "table"), _ANY_CONDITION, "exact", "lower bound"),
    Row("ddpm", "polymode.models.diffusion.ddpm:DDPM", "diffusion",
        "Denoising diffusion probabilistic model", "Ho, Jain and Abbeel, arXiv:2006.11239", 2020,
        _DIFFUSED, (*_ANY_CONDITION, "image"), "lower bound", "lower bound"),
    Row("sohl_dickstein", "polymode.models.diffusion.sohl_dickstein:SohlDickstein", "diffusion",
        "Diffusion probabilistic model (the first)", "Sohl-Dickstein et al., arXiv:1503.03585", 2015,
        (*_VECTORS, *_IMAGES, "series/real", "series/binary", "table"), (*_ANY_CONDITION, "image"),
        "lower bound", "lower bound"),
    Row("improved_ddpm", "polymode.models.diffusion.improved_ddpm:ImprovedDDPM", "diffusion",
        "Denoising diffusion with learned variances", "Nichol and Dhariwal, arXiv:2102.09672", 2021,
        (*_VECTORS, *_IMAGES, "series/real", "table"), (*_ANY_CONDITION, "image"), "lower bound", "lower bound"),
    Row("ncsn", "polymode.models.diffusion.ncsn:NCSN", "diffusion",
        "Noise-conditional score network", "Song and Ermon, arXiv:1907.05600, arXiv:2006.09011", 2019,
        (*_VECTORS, *_IMAGES, "series/real", "table"), (*_ANY_CONDITION, "image"), "lower bound", "lower bound"),
    Row("score_sde", "polymode.models.diffusion.score_sde:ScoreSDE", "diffusion",
        "Score-based diffusion by stochastic equations", "Song et al., arXiv:2011.13456", 2021,
        _DIFFUSED, (*_ANY_CONDITION, "image"), "lower bound", "lower bound"),
    Row("vdm", "polymode.models.diffusion.vdm:VDM", "diffusion",
        "Variational diffusion with a learned schedule", "Kingma et al., arXiv:2107.00630", 2021,
        (*_VECTORS, *_IMAGES, "series/real", "table"), (*_ANY_CONDITION, "image"), "lower bound", "lower bound"),
    Row("edm", "polymode.models.diffusion.edm:EDM", "diffusion",
        "Preconditioned denoiser (EDM)", "Karras et al., arXiv:2206.00364", 2022,
        _DIFFUSED, (*_ANY_CONDITION, "image"), "lower bound", "lower bound"),
    Row("flow_matching", "polymode.models.diffusion.flow_matching:FlowMatching", "diffusion",
        "Flow matching", "Lipman et al., arXiv:2210.02747; Liu et al., arXiv:2209.03003", 2023,
        _DIFFUSED, (*_ANY_CONDITION, "image"), "lower bound", "lower bound"),
    Row("rectified_flow", "polymode.models.diffusion.rectified_flow:RectifiedFlow", "diffusion",
        "Flow straightened by its own pairs", "Liu, Gong and Liu, arXiv:2209.03003", 2022,
        (*_VECTORS, *_IMAGES, "series/real", "table"), (*_ANY_CONDITION, "image"), "lower bound", "lower bound"),
    Row("consistency", "polymode.models.diffusion.consistency:Consistency", "diffusion",
        "Consistency model", "Song et al., arXiv:2303.01469; Song and Dhariwal, arXiv:2310.14189", 2023,
        (*_VECTORS, *_IMAGES, "series/real", "table"), (*_ANY_CONDITION, "image"), "none", "none"),
    Row("sr3", "polymode.models.diffusion.sr3:SR3", "diffusion",
        "A large picture given a small one, by diffusion", "Saharia et al., arXiv:2104.07636", 2021,
        _IMAGES, ("image",), "-", "lower bound", needs_condition=True),
    Row("d3pm", "polymode.models.diffusion.d3pm:D3PM", "diffusion",
        "Diffusion of symbols: masked, uniform or Gaussian jumps",
        "Austin et al., arXiv:2107.03006; Sahoo et al., arXiv:2406.07524", 2021,
        (*_DISCRETE_SEQUENCES, *_LATTICE_VECTORS, *_IMAGES, "waveform/levels"), _ANY_CONDITION, "-", "lower bound"),
    Row("tab_ddpm", "polymode.models.diffusion.tab_ddpm:TabDDPM", "diffusion",
        "Diffusion of tables, Gaussian and multinomial", "Kotelnikov et al., arXiv:2209.15421", 2023,
        ("table",), _ANY_CONDITION, "lower bound", "lower bound"),
    Row("ebm", "polymode.models.energy.ebm:EBM", "energy",
        "Energy-based model by Langevin dynamics", "Du and Mordatch, arXiv:1903.08689", 2019,
        (*_VECTORS, *_IMAGES, "series/real"), _ANY_CONDITION, "estimate", "estimate"),
    Row("short_run", "polymode.models.energy.short_run:ShortRun", "energy",
        "Short-run Langevin dynamics as a generator", "Nijkamp et al., arXiv:1904.09770", 2019,
        (*_VECTORS, *_IMAGES, "series/real"), _ANY_CONDITION, "none", "none"),
    Row("nce", "polymode.models.energy.nce:NCE", "energy",
        "Energy told from noise of known density, with its log Z", "Gutmann and Hyvarinen, AISTATS", 2010,
        (*_VECTORS, *_IMAGES, "series/real"), _ANY_CONDITION, "estimate", "estimate"),
    Row("score_matching", "polymode.models.energy.score_matching:ScoreMatching", "energy",
        "Energy whose slope is learned, denoising or sliced", "Vincent 2011; Song et al., arXiv:1905.07088", 2011,
        (*_VECTORS, *_IMAGES, "series/real"), _ANY_CONDITION, "estimate", "none"),
    Row("jem", "polymode.models.energy.jem:JEM", "energy",
        "Classifier whose logits are an energy", "Grathwohl et al., arXiv:1912.03263", 2020,
        (*_VECTORS, *_IMAGES, "series/real"), ("label",), "estimate", "estimate", needs_condition=True),
    Row("rbm", "polymode.models.boltzmann.rbm:RBM", "boltzmann",
        "Restricted Boltzmann machine", "Hinton 2002; Tieleman 2008; Teh and Hinton 2001 (levels)", 2002,
        (*_LATTICE_VECTORS, *_IMAGES, *_DISCRETE_SEQUENCES), ("label",), "-", "estimate"),
    Row("grbm", "polymode.models.boltzmann.grbm:GRBM", "boltzmann",
        "Gaussian-Bernoulli restricted Boltzmann machine", "Cho, Ilin and Raiko 2011; Liao et al., arXiv:2210.10318",
        2022, ("vector/real", "vector/levels", "image/levels", "series/real"), ("label",), "estimate", "estimate"),
    Row("ssrbm", "polymode.models.boltzmann.ssrbm:SSRBM", "boltzmann",
        "Spike-and-slab restricted Boltzmann machine", "Courville, Bergstra and Bengio, Unsupervised models of images "
        "by spike-and-slab RBMs", 2011, ("vector/real", "series/real"), ("label",), "estimate", "-"),
    Row("discriminative_rbm", "polymode.models.boltzmann.discriminative_rbm:DiscriminativeRBM", "boltzmann",
        "Restricted Boltzmann machine that classifies", "Larochelle and Bengio, Classification using discriminative "
        "restricted Boltzmann machines", 2008, (*_LATTICE_VECTORS, *_IMAGES, *_DISCRETE_SEQUENCES), ("label",), "-",
        "estimate", needs_condition=True),
    Row("boltzmann", "polymode.models.boltzmann.boltzmann_machine:GeneralBoltzmann", "boltzmann",
        "Fully connected Boltzmann machine", "Ackley, Hinton and Sejnowski, A learning algorithm for Boltzmann "
        "machines", 1985, ("vector/binary", "image/binary", "series/binary"), ("label",), "-", "estimate"),
    Row("structured_boltzmann", "polymode.models.boltzmann.structured:StructuredBoltzmann", "boltzmann",
        "Boltzmann machine on a graph, Ising and Potts", "Geman and Geman 1984; Mnih, Larochelle and Hinton, "
        "arXiv:1202.3748", 2011, (*_LATTICE_VECTORS, *_IMAGES, *_DISCRETE_SEQUENCES), _ANY_CONDITION, "-", "estimate"),
    Row("conv_rbm", "polymode.models.boltzmann.conv_rbm:ConvRBM", "boltzmann",
        "Convolutional Boltzmann machine with probabilistic max-pooling",
        "Lee, Grosse, Ranganath and Ng, Convolutional deep belief networks", 2009,
        _IMAGES, ("label",), "-", "estimate"),
    Row("cdbn", "polymode.models.boltzmann.cdbn:CDBN", "boltzmann",
        "Convolutional deep belief network", "Lee, Grosse, Ranganath and Ng, Convolutional deep belief networks", 2009,
        _IMAGES, ("label",), "-", "estimate"),
    Row("crbm", "polymode.models.boltzmann.conditional_rbm:CRBM", "boltzmann",
        "Conditional restricted Boltzmann machine", "Mnih, Larochelle and Hinton, arXiv:1202.3748", 2011,
        (*_LATTICE_VECTORS, *_IMAGES, *_DISCRETE_SEQUENCES), _ANY_CONDITION, "-", "estimate", needs_condition=True),
    Row("temporal_crbm", "polymode.models.boltzmann.temporal_crbm:TemporalCRBM", "boltzmann",
        "Conditional restricted Boltzmann machine over series",
        "Taylor, Hinton and Roweis, Modeling human motion using binary latent variables", 2006,
        ("series/binary",), _ANY_CONDITION, "-", "estimate"),
    Row("trbm", "polymode.models.boltzmann.trbm:TRBM", "boltzmann",
        "Temporal restricted Boltzmann machine", "Sutskever and Hinton, Learning multilevel distributed "
        "representations for high-dimensional sequences", 2007, ("series/binary",), _ANY_CONDITION, "-", "estimate"),
    Row("rtrbm", "polymode.models.boltzmann.rtrbm:RTRBM", "boltzmann",
        "Recurrent temporal restricted Boltzmann machine",
        "Sutskever, Hinton and Taylor, The recurrent temporal restricted Boltzmann machine", 2008,
        ("series/binary",), _ANY_CONDITION, "-", "estimate"),
    Row("rnn_rbm", "polymode.models.boltzmann.rnn_rbm:RNNRBM", "boltzmann",
        "Recurrent net whose frames are drawn by a Boltzmann machine",
        "Boulanger-Lewandowski, Bengio and Vincent, arXiv:1206.6392", 2012,
        ("series/binary",), _ANY_CONDITION, "-", "estimate"),
    Row("dbn", "polymode.models.boltzmann.dbn:DBN", "boltzmann",
        "Deep belief network", "Hinton, Osindero and Teh, A fast learning algorithm for deep belief nets", 2006,
        (*_LATTICE_VECTORS, *_IMAGES, *_DISCRETE_SEQUENCES), ("label",), "-", "estimate"),
    Row("dbm", "polymode.models.boltzmann.dbm:DBM", "boltzmann",
        "Deep Boltzmann machine", "Salakhutdinov and Hinton 2009; Montavon and Mueller 2012 (centring)", 2009,
        (*_LATTICE_VECTORS, *_IMAGES, *_DISCRETE_SEQUENCES), ("label",), "-", "estimate"),
    Row("multimodal_rbm", "polymode.models.boltzmann.multimodal_rbm:MultimodalRBM", "boltzmann",
        "Restricted Boltzmann machine of two modalities", "Ngiam et al., Multimodal deep learning", 2011,
        (*_LATTICE_VECTORS, *_IMAGES), _ANY_CONDITION, "-", "estimate", needs_condition=True),
    Row("multimodal_dbm", "polymode.models.boltzmann.multimodal_dbm:MultimodalDBM", "boltzmann",
        "Deep Boltzmann machine of two modalities", "Srivastava and Salakhutdinov, Multimodal learning with deep "
        "Boltzmann machines", 2012, (*_LATTICE_VECTORS, *_IMAGES), _ANY_CONDITION, "-", "estimate",
        needs_condition=True),
    Row("bayes_net", "polymode.models.directed.bayes_net:BayesNet", "directed",
        "Bayesian network with neural conditionals", "Pearl, Probabilistic Reasoning in Intelligent Systems", 1988,
        (*_VECTORS, "table"), _ANY_CONDITION, "exact", "exact"),
    Row("sbn", "polymode.models.directed.sbn:SBN", "directed",
        "Sigmoid belief network", "Neal 1992; Bornschein and Bengio, arXiv:1406.2751; Mnih and Rezende, "
        "arXiv:1602.06725; Mnih and Gregor, arXiv:1402.0030; Hinton et al. 1995", 1992,
        (*_LATTICE_VECTORS, *_IMAGES, "series/binary"), _ANY_CONDITION, "-", "lower bound"),
    Row("darn", "polymode.models.directed.darn:DARN", "directed",
        "Deep autoregressive network", "Gregor et al., arXiv:1310.8499", 2014,
        ("vector/binary", "image/binary", "series/binary"), _ANY_CONDITION, "-", "lower bound"),
    Row("pixelvae", "polymode.models.composite.pixelvae:PixelVAE", "composite",
        "VAE whose decoder is a PixelCNN", "Gulrajani et al., arXiv:1611.05013", 2017, _IMAGES, _ANY_CONDITION,
        "-", "lower bound"),
    Row("vae_gan", "polymode.models.composite.vae_gan:VAEGAN", "composite",
        "Autoencoder judged by a discriminator", "Larsen et al., arXiv:1512.09300", 2016,
        _IMAGES, _ANY_CONDITION, "-", "none"),
    Row("vqvae", "polymode.models.composite.vqvae:VQVAE", "composite",
        "Codes of a learned codebook with a learned prior", "van den Oord, Vinyals and Kavukcuoglu, arXiv:1711.00937",
        2017, _IMAGES, _ANY_CONDITION, "-", "lower bound"),
    Row("vqvae2", "polymode.models.composite.vqvae2:VQVAE2", "composite",
        "Two levels of codes, each with a learned prior", "Razavi, van den Oord and Vinyals, arXiv:1906.00446", 2019,
        _IMAGES, ("label",), "-", "lower bound"),
    Row("latent_diffusion", "polymode.models.composite.latent_diffusion:LatentDiffusion", "composite",
        "Diffusion of an autoencoder's codes", "Rombach et al., arXiv:2112.10752", 2022, _IMAGES, _ANY_CONDITION,
        "-", "lower bound"),
)  # fmt: skip


def find(name: str) -> Row:
    """The row of a model, or an error that names the nearest."""
    from polymode.core.errors import PolymodeError

    for row in MODELS:
        if row.name == name.lower():
            return row
    names = [row.name for row in MODELS]
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; models are: {', '.join(names)}"
    raise PolymodeError(f"there is no model {name!r}{hint}")


def load(row: Row) -> Any:
    """The class of a row; imports its file."""
    module, _, name = row.path.partition(":")
    return getattr(importlib.import_module(module), name)


def row_of(cls: type) -> Row | None:
    """The row of a class, None for a class that is not in the catalogue."""
    path = f"{cls.__module__}:{cls.__qualname__}"
    return next((row for row in MODELS if row.path == path), None)


def select(
    *, kind: str | None = None, likelihood: str | None = None, family: str | None = None, condition: str | None = None
) -> tuple[Row, ...]:
    """The rows that take a data kind (``image`` or ``image/levels``), offer a likelihood, are of a family, ..."""
    return tuple(
        row
        for row in MODELS
        if (kind is None or kind in row.takes or kind in row.kinds)
        and (likelihood is None or likelihood in row.likelihoods)
        and (family is None or family == row.family)
        and (condition is None or condition in row.conditions)
    )


def check_takes(row: Row, signature: str, conditions: tuple[str, ...]) -> None:
    """Raise unless a model takes data of this signature and these conditions; names models that do."""
    from polymode.core.errors import PolymodeError

    if signature not in row.takes:
        others = ", ".join(r.name for r in select(kind=signature)) or "none yet"
        raise PolymodeError(
            f"{row.name} can't take {signature} data (it takes {', '.join(row.takes)}); models that can: {others}"
        )
    for condition in conditions:
        if condition not in row.conditions:
            others = ", ".join(r.name for r in select(kind=signature, condition=condition)) or "none yet"
            raise PolymodeError(
                f"{row.name} can't be conditioned on {condition} (it takes {', '.join(row.conditions) or 'nothing'}); "
                f"models that can: {others}"
            )


def check_arguments(model: str, cls: type, arguments: dict[str, Any]) -> None:
    """Raise on an argument that the constructor does not have; names the nearest."""
    from polymode.core.errors import PolymodeError, nearest

    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]  # the metaclass hides the class's own
    known = [p for p in parameters if p not in ("self", "spec", "condition_spec")]
    for name in arguments:
        if name not in known:
            hint = nearest(name, known) or f"; its options are: {', '.join(known)}"
            raise PolymodeError(f"{model} has no option {name!r}{hint}")
