r"""English."""

MESSAGES = {
    "title": "Derivation of the gradients of “{name}”",
    "made": "Made by chainrule {version} from the equations of the network; derivation {hash}.",
    # sections
    "section.result": "The gradients",
    "section.notation": "Notation",
    "section.conventions": "Conventions",
    "section.graph": "The computation at a glance",
    "section.forward": "Forward: the equations of the network",
    "section.backward": "Backward: the gradients, step by step",
    "section.numbers": "Worked with numbers",
    "section.check": "Numeric check",
    "section.stability": "Stability and kinks",
    "section.flow": "How signals and gradients flow",
    "section.optimizer": "The optimizer's step",
    "section.cost": "Cost",
    "section.frozen": "What is frozen, and what that saves",
    "section.kernel": "The emitted kernel",
    "section.rules": "Appendix: the rules used",
    "section.contents": "Contents",
    # results
    "stop": ".",
    "result.intro": "For the loss {loss}, the derivative with respect to each of its parameters "
    "is given here; it is derived from equation {first} on. {adjoints}",
    "result.bar": "A bar marks the adjoint of an intermediate quantity, "
    "$\\bar v = \\partial L/\\partial v$.",
    "result.delta": "The letter $\\delta$ with an intermediate quantity below it is the adjoint of "
    "that quantity, $\\delta_v = \\partial L/\\partial v$.",
    "result.partial": "The adjoint of an intermediate quantity $v$ is $\\partial L/\\partial v$.",
    "result.others": "Other scalars are differentiated on the way; the notation says which "
    "adjoint is that of which of them.",
    "result.jacobian": "All derivatives of {of} are given here, each element of it by each of the "
    "other; they are derived from equation {first} on. In the sweep every adjoint has the indices "
    "of what is differentiated in front.",
    "result.intermediate": "with the recursion from the loss back to the inputs",
    # notation
    "notation.intro": "Indices count from 0. Where a parameter has a number of its own, the "
    "indices follow after a semicolon: $W_{1;i j}$ is the element $(i, j)$ of $W_1$.",
    "notation.reused": "A letter that stands in several rows has one range in each equation: "
    "that of the axes at which it stands there.",
    "notation.symbol": "Symbol", "notation.meaning": "Meaning", "notation.shape": "Shape",
    "notation.role": "Role", "notation.code": "In the code",
    "notation.sizes": "Sizes and indices", "notation.index": "Index", "notation.range": "Range",
    "notation.size": "Size",
    "role.input": "input", "role.parameter": "parameter", "role.state": "state",
    "role.constant": "constant", "role.random": "random", "role.intermediate": "intermediate",
    "role.gradient": "adjoint",
    "meaning.input": "data handed in at each step",
    "meaning.labels": "whole numbers handed in at each step",
    "meaning.distribution": "data whose last dim sums to 1",
    "meaning.parameter": "trained; read by {numbers}",
    "meaning.state": "kept from step to step", "meaning.constant": "a constant",
    "meaning.random": "drawn at each step",
    "meaning.intermediate": "defined by equation {number}",
    "meaning.argument": "the argument inside equation {number}, given a name",
    "meaning.softmax": "softmax: the derivative of a log-sum-exp",
    "meaning.ties": "how many elements reach the maximum",
    "meaning.others": "the product of all other factors",
    "meaning.adjoint": "{number}, the derivative of {scalar} with respect to {of}",
    "meaning.loss": "the loss",
    "meaning.gate.keep": "how much of {of} is kept from step to step",
    "meaning.gate.write": "how much of {of} is written",
    "meaning.gate.show": "how much of {of} is shown",
    "meaning.gate.reset": "how much of the step before goes into what is written to {of}",
    "meaning.gate.new": "what is new for {of}",
    "between": "; ",
    "scalar": "scalar",
    # conventions
    "convention.layout.denominator": "A gradient has the shape of what it is the gradient of "
    "(denominator layout): $\\frac{\\partial L}{\\partial W}$ has at $(i, j)$ the "
    "derivative with respect to $W_{i j}$. So a step of descent is a plain subtraction.",
    "convention.layout.numerator": "Matrix forms are in numerator layout: the gradient of a "
    "column is a row, and that of an $m$ by $n$ matrix is $n$ by $m$, so that "
    "$dL = \\operatorname{tr}(\\frac{\\partial L}{\\partial W} \\, dW)$. A step of descent "
    "transposes it. In index form, $\\frac{\\partial L}{\\partial W_{i j}}$ is the derivative "
    "with respect to that element in every layout.",
    "convention.samples.rows": "The samples of a batch are the rows of a matrix.",
    "convention.samples.columns": "In matrix form the samples of a batch are the columns: "
    "such a matrix is the transpose of what the code stores, and a vector with an entry for each "
    "sample is a row.",
    "convention.vectors": "In matrix form vectors are columns, $\\mathbf{1}_n$ is a column of $n$ "
    "ones, $\\odot$ multiplies entry by entry, and functions, powers and quotients act on each "
    "entry. A scalar that is added is added to every entry.",
    "convention.iverson": "A condition in brackets, $[k = t_b]$, is 1 where it holds and 0 "
    "elsewhere; it is a strong zero: $[\\text{false}]\\,x = 0$ even where $x$ has no value.",
    "convention.onehot.rows": "$\\operatorname{onehot}(t)$ has in row $b$ a one at column "
    "$t_b$ and zeros elsewhere.",
    "convention.onehot.columns": "$\\operatorname{onehot}(t)$ has in column $b$ a one at row "
    "$t_b$ and zeros elsewhere.",
    "convention.batch": "The first index, {index}, counts the samples of a batch.",
    "convention.reduction": "The loss is divided by {count}, and so is every gradient.",
    "convention.kink": "Where the derivative jumps, one value is chosen: {what}.",
    "convention.ties": "Where several elements reach the maximum, they share its derivative "
    "equally.",
    "convention.random": "$\\operatorname{uniform}_{n,i,j}(s)$ is a random number between 0 and 1 "
    "that is a function of whole numbers alone: of the seed $s$ of the step, of the number $n$ of "
    "its stream and of the indices of the element. Its derivative is 0.",
    "convention.first": "Outside its range a recurrence takes its first value: {formula}.",
    # graph
    "graph.caption": "Each box is a tensor, with its adjoint in red below; parameters are rounded, "
    "the loss is framed twice. Arrows show which equation reads what; the gradients flow against "
    "them.",
    "graph.folded": "A box with × stands for repeated layers.",
    "graph.beside": "Statistics that are only kept for prediction are left out.",
    # forward
    "forward.intro": "Each equation holds for all values of its free indices.",
    "forward.where": "for {indices}",
    "forward.first": "with {formula} for {condition}",
    "forward.padded": "{symbol} reads 0 outside its bounds",
    "forward.named": "named, so that its adjoint has a name too",
    "form.index": "index form", "form.matrix": "matrix form", "form.einsum": "as a contraction",
    "form.shapes": "shapes",
    "form.transposed.left": "{symbol} is transposed because the sum runs over {index}, which "
    "stands first in it; a left factor needs the summed index last.",
    "form.transposed.right": "{symbol} is transposed because the sum runs over {index}, which "
    "stands last in it; a right factor needs the summed index first.",
    "form.slides": "Here {formula}, reading 0 outside: a cross-correlation, in which {symbol} "
    "slides along unflipped (what machine learning calls a convolution).",
    "form.flipped": "Here {formula}, reading 0 outside: a convolution, in which {symbol} runs "
    "against the index, flipped in every one of its spatial dims.",
    "form.spread": "Only places at which the index is a whole number count, as if zeros stood "
    "between the elements.",
    "layer.repeated": "The layers {first} to {last} are alike; here is layer $\\ell$.",
    "layer.range": "for $\\ell$ = {first}, …, {last}",
    "layer.times": "× {count} layers",
    # remarks behind forward equations
    "remark.norm.what": "{of} minus its mean, over its standard deviation: whatever the size of "
    "{of}, the quotient has mean 0 and variance 1 over {over}, {count} elements for each mean. So "
    "signals neither grow nor shrink from layer to layer, and the layers may share a learning "
    "rate. "
    "A gain and a bias, where they follow, give back the scale and the place that "
    "this takes away.",
    "remark.norm.again": "{of} is normalised like {first}: what is said behind equation {number} "
    "holds here too.",
    "remark.norm.eps": "Without the {eps} under the root, elements that are all equal would be "
    "divided by 0. With it the variance of the quotient is $\\frac{v}{v + \\varepsilon}$, a "
    "little less than 1.",
    "remark.norm.scale": "But for that constant, {here} is the same for $\\alpha$ {of} $+\\,"
    "\\beta$ as for {of}, with every $\\alpha > 0$. Differentiated by $\\beta$ and by "
    "$\\alpha$ this says that over {over} the adjoint of {of} adds up to 0, and to 0 again when "
    "each element is multiplied with its deviation from {mean}. And weights in front of {of} that "
    "are $\\alpha$ times as large get a gradient that is $\\frac{1}{\\alpha}$ as large: a step "
    "that was too long makes the next one shorter, so larger learning rates are borne.",
    "remark.norm.one": "Mean and variance are those of the batch: what a sample gives depends on "
    "the others, the adjoint passes between samples, and few samples make noisy estimates. In a "
    "batch of one, each element is its own mean: the quotient is 0 whatever comes in, so the "
    "adjoint of {of} is 0 too, and nothing in front of it learns.",
    "remark.norm.places": "Mean and variance are those of the batch: what a sample gives depends "
    "on the others, and the adjoint passes between samples. In a batch of one, {left} elements are "
    "left for each mean, so that there is still something to learn from.",
    "remark.norm.sample": "Mean and variance are taken within one sample: no sample depends on "
    "another, the size of the batch does not matter, and prediction computes what training does.",
    "remark.norm.kept": "A prediction must not depend on what else is in its batch. So {states} "
    "follow {mean} and {variance} during training, by {numbers}, and prediction reads them in "
    "their place: there the layer is a fixed linear function of each element.",
    "remark.norm.prediction": "{mean} and {variance} are states, kept from training: here the "
    "layer is a fixed linear function of each element of {of}, and a prediction does not depend on "
    "what else is in its batch.",
    "remark.norm.cancelled": "{names} is added alike to all elements of a mean, so the deviation "
    "from the mean lacks it: it has no influence, its gradient is 0 (a check can only confirm "
    "that), and it may be left out.",
    "remark.norm.why": "Why training gains so much is not settled. That the distribution of what a "
    "layer receives drifts less was the first explanation and is doubted; a smoother loss, and the "
    "noise of the estimates as regularization, have been put forward since. What stands here "
    "follows from the equations alone.",
    "remark.gate.keep": "Each element of {gate} lies between 0 and 1: the share of {of} that is "
    "kept from the step before. Near 1 an element is carried on as it is, near 0 it is forgotten.",
    "remark.gate.write": "{gate}, between 0 and 1 too, is the share of the new content {what} that "
    "is written.",
    "remark.gate.reset": "{gate}, inside the new content, is the share of the step before that new "
    "content is made from; near 0 it is made from the input alone.",
    "remark.gate.show": "{gate} is the share of {what} that {shown} shows, to the next step and to "
    "all that reads {shown}. What is hidden is not lost: it stays in {of}.",
    "remark.gate.way": "So {of} has a way of its own from step to step, and along it the "
    "derivative is the gate itself, element by element:",
    "remark.gate.along": "No weight and no slope of another function stands in it. Over {steps} "
    "steps an adjoint passes {count} such factors. Where arguments are near 0, as before training "
    "with small weights, each is $\\sigma(0)$ = {start}, and all together are {half}; for half "
    "of an adjoint to arrive, gates of {needed} are needed, with arguments of {argument}. So the "
    "bias of such "
    "a gate is often begun above 0. The other ways back, through what the gates and the new "
    "content read of the step before, pass weights at each step.",
    "remark.gate.any": "No weight and no slope of another function stands in it. From step $s$ "
    "back to step $t$ an adjoint passes $s - t$ such factors. Where arguments are near 0, as "
    "before training with small weights, each is $\\sigma(0)$ = 0.5 and halves it, so the bias of "
    "such a gate is often begun above 0. The other ways back, through what the gates and the new "
    "content "
    "read of the step before, pass weights at each step.",
    "remark.noise": "The random numbers are read like data: for the seed of the step, {here} is a "
    "fixed function of {read}, and that is what is differentiated. So the noise shapes the "
    "gradient and gets none.",
    "remark.normal": "The root of a logarithm times a cosine, of two uniform numbers, is a normal "
    "number with mean 0 and variance 1 (Box and Muller 1958).",
    "remark.scale": "The factor is one over the root of {count}, the number of products that are "
    "added over {over}: where their factors are independent with mean 0 and variance 1, the sum "
    "has the variance {count}, and {here} the variance 1 whatever that number is. A softmax of "
    "larger scores would begin nearly certain of one of them, with derivatives near 0.",
    "remark.loss": "With the softmax $p$ of the {count} scores in {scores}, each sample adds "
    "$-\\log p_t$ for its label $t$: 0 where the label is certain, {value} where all classes are "
    "equally likely, without bound where the label is held impossible. So {loss} is the mean "
    "negative log-likelihood of the labels; it is the cross-entropy of the labels, taken as "
    "distributions, and $p$. Only differences of scores matter: the same number added to all "
    "scores of a sample changes nothing, and scores twice as large are twice as sure of the same "
    "order.",
    # softmax with numbers
    "softmax.intro": "With numbers: a sample with label {label} and scores that are too large for "
    "the exponential function, which overflows beyond {largest} (in single precision {single}). "
    "The same number taken from all scores divides every power by the same factor, which cancels "
    "in "
    "the quotient; with the largest score taken, one power is 1 and none is larger.",
    "softmax.class": "Class", "softmax.shifted": "minus the largest", "softmax.power": "its power",
    "softmax.outro": "{adjoint} is that of a batch of this sample alone. It is negative at the "
    "label only: a step of descent raises that score and lowers the others, each by as much as it "
    "is believed; a row adds up to 0.",
    # backward
    "backward.intro": "Every tensor between the parameters and the loss gets an adjoint. It says "
    "how the loss answers: where an element grows by a small $h$, the loss grows by $h$ times its "
    "adjoint, so a step of descent goes against it. The adjoints are "
    "found in reverse order, each once, from the adjoints of what reads it. Four patterns return: "
    "where values are added, each gets the adjoint as it is; where they are multiplied, each gets "
    "it times the other; what is read several times gets the sum of all contributions; and of a "
    "maximum, only the largest gets it.",
    "backward.combined": "With {numbers} put in and the common factor in front, this is",
    "backward.centred": "{sum} is 0 and was left out: {mean} is the mean of {of}.",
    "backward.recursion": "a recursion in {index}, worked from {first} to {last} ({rule}): beyond "
    "its end the adjoint is 0",
    "forward.recursion": "a recursion in {index}, worked from {first} to {last}",
    "convention.slices": "A bold symbol with indices is what is left when these are held: "
    "$\\mathbf{H}_t$ is the matrix at $t$, and $\\mathbf{H}_{:,0}$ that at 0 of the second dim.",
    "backward.title": "The adjoint of {symbol}",
    "backward.gradient": "The gradient with respect to {symbol}",
    "backward.helper": "A quantity for the derivative: {symbol}",
    "backward.seed": "{symbol} is what is differentiated, so the sweep starts with {formula}.",
    "backward.reads": "{symbol} is read by equation {number}. By the {rule}, the local "
    "derivative is",
    "backward.reads.many": "{symbol} is read at {count} places, in {numbers}; each contributes.",
    "backward.from": "In {number}, by the {rule}, the local derivative is",
    "backward.begins": "The sweep begins where no step follows, at {index} = {at}, with",
    "backward.next": "and at {index} = {at} the step that was just worked sends its part:",
    "backward.switch": "So a unit is a switch: where its argument is not positive, nothing passes "
    "back, and for that sample no weight in front of it changes; where it is positive, all passes, "
    "as if the function were not there.",
    "backward.weighted": "A sum over samples: each adds its {input}, weighted with its error "
    "{error}. A sample without error changes nothing; {input} ten times as large makes this "
    "gradient ten times as large, which is why data are brought to one scale first.",
    "backward.place": "Times the adjoint {adjoint} of what reads it, each place sends back",
    "backward.solve": "Solved for the places that read the element at {place}: {relation}.",
    "backward.over": ", summed over {indices}, for all of which the element is read,",
    "backward.contributes.one": "It contributes{over}",
    "backward.result.one": "This is{over}",
    "backward.inlined.one": "This is simple enough to be put in where it is used:",
    "backward.contributes": "Times {adjoint}{over} it contributes",
    "backward.same": "The further {count} places contribute in the same way.",
    "backward.sum": "The contributions of all places add up to",
    "backward.collected": "which is, with the common factors in front,",
    "backward.collected.alone": "With the common factors in front this is",
    "backward.result": "Times {adjoint}{over} this is",
    "backward.inlined": "Times {adjoint} this is simple enough to be put in where it is used:",
    # checks
    "check.intro": "The derived gradients, evaluated in double precision, against numeric "
    "differentiation of the forward equations with an error bar of its own.",
    "check.verdict": "Verdict", "check.pass": "agrees", "check.fail": "differs",
    "check.undecided": "undecided",
    "check.parameter": "Parameter", "check.directions": "Directions, single elements among them",
    "check.error": "Largest error", "check.bar": "Error bar", "check.worst": "Worst coordinate",
    "check.seed": "At one point (seed {seed}; random points keep away from kinks).",
    "check.sizes": "Sizes: {sizes}.", "check.method": "Method",
    "check.none": "No numeric check was asked for.",
    # stability
    "stability.logsumexp": "$\\log\\sum_k e^{z_k}$ is computed as "
    "$m + \\log\\sum_k e^{z_k - m}$ with $m = \\max_k z_k$: no exponential overflows, and the "
    "softmax $e^{z_k - u}$ is at most 1.",
    "stability.safe": "{function} is computed in a form that neither overflows nor cancels.",
    "stability.ledger": "Where these functions have no derivative, one value is taken:",
    "stability.kinks": "The numeric check keeps away from these places. Frameworks choose "
    "differently at some of them; the choice is made before the derivation and shows in it.",
    "stability.function": "Function", "stability.at": "Where", "stability.taken": "Taken",
    "stability.equations": "Equations", "stability.tie": "where elements tie",
    "stability.border": "where its condition changes",
    "stability.shared": "each of $n$ elements that tie gets $\\frac{1}{n}$",
    "stability.branch": "the derivative of the branch that is taken",
    "flow.intro": "A forecast for the start of training: root mean squares over wide layers with "
    "independent weights of mean 0, the adjoint that arrives taken as independent of the weights.",
    "flow.healthy": "The gradient keeps its size", "flow.vanishing": "The gradient vanishes",
    "flow.exploding": "The gradient explodes", "flow.not": "Not known",
    "flow.factor": "From layer to layer it changes by a factor of {factor}, over all "
    "{count} layers by {total}.",
    "flow.layer": "Layer", "flow.signal": "Signal", "flow.adjoint": "Adjoint",
    "flow.step": "Factor",
    "flow.jacobian": "Jacobian", "flow.element": "An element",
    "flow.bound": "Largest singular value at most",
    "flow.recurrent": "Through the recurrence of {names} it changes by a factor of {factor} in "
    "each of {steps} steps.",
    "stability.first": "Where all {count} scores of a sample in {scores} are equal, as they nearly "
    "are before training with small weights, {loss} is $\\log$ {count} = {value}: training should "
    "begin there. A larger loss says that the scores begin too large, a smaller one that the "
    "labels are known beforehand.",
    "stability.none": "Nothing in these equations overflows or has a kink.",
    # numbers
    "numbers.intro":
    "Values that flow forward are green, gradients that flow back are red. Numbers are rounded to "
    "five digits as they are written, and computed in double precision.",
    "numbers.caption": "The computation with its numbers: values in green, gradients in red.",
    "numbers.forward": "Forward", "numbers.backward": "Backward",
    "numbers.more": "and so for the other {count} elements.",
    "numbers.all": "All values",
    "numbers.name": "Tensor", "numbers.value": "Value", "numbers.gradient": "Gradient",
    # cost
    "cost.intro": "Operations are multiplications and additions, counted as written; functions "
    "are counted apart. Bytes are those read and written in single precision if every tensor "
    "is moved once. A letter in a count is a size of the notation, never a unit.",
    "cost.equation": "Equation", "cost.operations": "Operations", "cost.functions": "Functions",
    "cost.bytes": "Bytes moved", "cost.forward": "Forward in all", "cost.backward":
    "Backward in all", "cost.stored": "Kept for the backward pass: {bytes} bytes; "
    "prediction alone needs none of them.",
    # frozen
    "frozen.intro": "Not trained: {names}.",
    "frozen.vanished": "So no adjoint is derived, stored or computed of {names}: nothing that is "
    "trained needs it.",
    "frozen.more": " and {count} more", "frozen.load": "Backward pass", "frozen.now":
    "As it is", "frozen.all": "All trained", "frozen.equations": "Equations",
    "frozen.operations": "Operations", "frozen.functions": "Functions", "frozen.adjoints":
    "Bytes of adjoints", "frozen.kept": "Bytes kept from the forward pass",
    "frozen.gradients": "Bytes of gradients, and of each moment of the optimizer",
    # optimizer, kernel
    "optimizer.intro": "One step of {name} for every parameter $p$ with its gradient $g$:",
    "optimizer.with": "Here {settings}.",
    "optimizer.prime": "A prime marks the value after the step.",
    "optimizer.states": "Kept from step to step, and 0 before the first: {states}.",
    "optimizer.count": "{count} counts the steps from 1 on.",
    "kernel.intro": "The comments of the kernel carry the numbers of the equations above.",
    # rules
    "rules.intro": "Each rule once, with the reason why it holds.",
    "rules.functions": "Elementary functions and their derivatives",
    "rules.function": "Function", "rules.derivative": "Derivative",
    "rules.definition": "From the definition",
    "rules.proof": "Why:",
    "rule.seed.title": "start of the sweep",
    "rule.seed.says": "The derivative of the loss with respect to itself is 1.",
    "rule.seed.proof": "$\\frac{\\partial L}{\\partial L} = 1$.",
    "rule.linear.title": "rule for sums and constant factors",
    "rule.linear.says": "What enters linearly has its factor as local derivative.",
    "rule.linear.proof": "For $y = \\sum_i a_i x_i + r$ with $a$ and $r$ free of $x$: "
    "$\\frac{\\partial y}{\\partial x_m} = a_m$, because each other term is a constant. So the "
    "gradient of a sum of the entries of $\\mathbf{x}$ has a 1 for each entry, and that of a dot "
    "product $\\mathbf{w}^\\top \\mathbf{x}$ with respect to $\\mathbf{x}$ holds the entries of "
    "$\\mathbf{w}$. A number $z$ that is added to all entries, $y_i = x_i + z$, stands for "
    "$z \\mathbf{1}$: each $\\frac{\\partial y_i}{\\partial z}$ is 1, so its adjoint is the sum "
    "$\\bar z = \\sum_i \\bar y_i$ over all that it was spread to. This is why a bias gets a sum "
    "over the batch.",
    "rule.product.title": "product rule",
    "rule.product.says": "In a product the other factors are the local derivative; each place at "
    "which a tensor stands is differentiated on its own.",
    "rule.product.proof": "$(f g)' = f' g + f g'$. Let $x$ and $w$ be two places; with "
    "respect to the first, $\\frac{\\partial (x w)}{\\partial x} = w$ while $w$ is held. A tensor "
    "that stands at both places gets both terms. Entry by entry, for $\\mathbf{y} = \\mathbf{w} "
    "\\odot \\mathbf{x}$, an entry $y_i$ reads $w_i$ and $x_i$ alone, so all entries of the "
    "Jacobian off the diagonal are 0: $\\frac{\\partial \\mathbf{y}}{\\partial \\mathbf{w}} = "
    "\\operatorname{diag}(\\mathbf{x})$, a product with which gives $\\bar w_i = x_i \\bar y_i$. "
    "A number times a vector, $y_i = z x_i$, spreads the number: $\\bar x_i = z \\bar y_i$ and "
    "$\\bar z = \\sum_i x_i \\bar y_i$.",
    "rule.power.title": "power rule",
    "rule.power.says": "$(x^n)' = n x^{n-1}$.",
    "rule.power.proof": "$x^n = e^{n \\log x}$, so by the chain rule $(x^n)' = x^n \\cdot "
    "\\frac{n}{x} = n x^{n-1}$ for $x > 0$; for whole $n$ the product rule gives it for all "
    "$x$. A quotient is a product with the power $-1$: $\\frac{\\partial}{\\partial x} "
    "\\frac{w}{x} = -\\frac{w}{x^2}$.",
    "rule.select.title": "rule for cases",
    "rule.select.says": "Inside each case that case is differentiated; on the border the declared "
    "side counts. A condition on indices alone is a factor of 1 or 0.",
    "rule.select.proof": "Around a point off the border one case holds throughout, and a "
    "derivative looks only at a neighbourhood.",
    "rule.chain.title": "chain rule",
    "rule.chain.says": "$y = f(x)$ has the local derivative $f'(x)$; where $f'$ can be written "
    "with the output $y$, it is, and nothing is computed twice.",
    "rule.chain.proof": "$f(x + h) = f(x) + f'(x) h + o(h)$, and $L(y + k) = L(y) + \\bar y k "
    "+ o(k)$; with $k = f'(x) h + o(h)$ this is $L + \\bar y f'(x) h + o(h)$, so "
    "$\\bar x = \\bar y f'(x)$. The same holds for vectors: where $\\mathbf{x}$ has $n$ entries "
    "and "
    "$\\mathbf{y} = \\mathbf{f}(\\mathbf{x})$ has $m$, the Jacobian $\\mathbf{J}$ is the $m$ by "
    "$n$ "
    "matrix of all $\\frac{\\partial y_i}{\\partial x_j}$, a row for each function and a column "
    "for each variable; of a number it is a row, and by a number a column. For $\\mathbf{f}$ "
    "behind "
    "$\\mathbf{g}$ the Jacobians multiply, in this order, $\\mathbf{J}_f \\mathbf{J}_g$ with $m$ "
    "by $k$ times $k$ by $n$, and the sum in this product is one over all ways from a variable to "
    "a "
    "function. No Jacobian need be built: from the loss backwards each step is a row times a "
    "matrix, $\\bar x_j = \\sum_i \\bar y_i \\frac{\\partial y_i}{\\partial x_j}$, and costs "
    "about what the step forward did; forwards, each variable would need a sweep of its own. Where "
    "a function acts on each entry, $y_i$ reads $x_i$ alone, so $\\mathbf{J}$ is the diagonal "
    "matrix of the $f'(x_i)$, and a product with it is one entry by entry.",
    "rule.softmax.title": "derivative of log-sum-exp",
    "rule.softmax.says": "The derivative of $u = \\log\\sum_k e^{z_k}$ is the softmax "
    "$p_k = e^{z_k - u}$.",
    "rule.softmax.proof": "$\\frac{\\partial u}{\\partial z_k} = \\frac{e^{z_k}}{\\sum_j e^{z_j}} "
    "= e^{z_k - u}$, because $\\sum_j e^{z_j} = e^u$. Where a label's score is subtracted, as in "
    "cross-entropy, the derivative is $p_k$ minus 1 at the label: a step of descent raises that "
    "score and lowers all others, and the entries of a sample add up to 0.",
    "rule.ties.title": "derivative of a maximum or minimum",
    "rule.ties.says": "The elements that reach the extreme value share the derivative equally.",
    "rule.ties.proof": "Where one element alone is the largest it stays so nearby, so the maximum "
    "is that element and its derivative is 1. Where $n$ elements tie, $\\frac{1}{n}$ each is the "
    "mean of the $n$ one-sided choices and lies in the subdifferential.",
    "rule.prod.title": "derivative of a product over an index",
    "rule.prod.says": "The local derivative is the product of all other factors, which is right "
    "also where a factor is 0.",
    "rule.prod.proof": "$\\prod_r x_r = x_k \\cdot \\prod_{r \\neq k} x_r$, and the second factor "
    "is free of $x_k$.",
    "rule.indices.title": "gathering over all places that read an element",
    "rule.indices.says": "An element gets one contribution from each place that reads it: the "
    "equation between the index expressions is solved over the whole numbers.",
    "rule.indices.proof": "If $y_i$ reads $x_{g(i)}$, then $\\bar x_m = \\sum_i \\bar y_i "
    "\\frac{\\partial y_i}{\\partial x_{g(i)}} [g(i) = m]$. For an affine $g$ the condition is "
    "solved exactly; what remains of it (divisibility, bounds) stands as a condition under the "
    "sum.",
    "rule.accumulate.title": "sum over all uses",
    "rule.accumulate.says": "A tensor that is used at several places collects the contributions "
    "of all of them.",
    "rule.accumulate.proof": "For $L = F(a(x), b(x))$: $\\frac{d L}{d x} = \\frac{\\partial F}"
    "{\\partial a} a'(x) + \\frac{\\partial F}{\\partial b} b'(x)$, the chain rule in several "
    "variables: with $a(x + h) = a + a' h$ and $b(x + h) = b + b' h$ but for $o(h)$, $F$ grows by "
    "the sum of both. A partial derivative holds all other quantities, the total derivative "
    "$\\frac{d L}{d x}$ lets those that depend on $x$ follow. For $u = x^2$ and $y = x + u$, one "
    "way alone gives $\\frac{\\partial y}{\\partial u} \\frac{d u}{d x} = 2 x$, holding $u$ gives "
    "$\\frac{\\partial y}{\\partial x} = 1$, and their sum is right: $1 + 2 x$. Contributions are "
    "added whatever the operation is: for $y = x u$ they are $u$ and $x \\cdot 2 x$, in all "
    "$3 x^2$.",
    "rule.matrix.title": "product of matrices",
    "rule.matrix.says": "What a product of matrices sends back to a factor is the adjoint of the "
    "product times the other factor, transposed.",
    "rule.matrix.proof": "Let $\\mathbf{Z} = \\mathbf{X} \\mathbf{W}$ and $\\mathbf{G}$ hold at "
    "$(b, j)$ the derivative of $L$ by $Z_{b j}$. Element by element $\\frac{\\partial L}"
    "{\\partial W_{i j}} = \\sum_b X_{b i} G_{b j}$: the sum runs over the first index of both, "
    "and a product of matrices sums over the last of its left and the first of its right factor, "
    "so "
    "this is $\\mathbf{X}^\\top \\mathbf{G}$; in the same way $\\frac{\\partial L}{\\partial "
    "X_{b i}} = \\sum_j G_{b j} W_{i j}$ is $\\mathbf{G} \\mathbf{W}^\\top$. Without indices: "
    "$dL = \\operatorname{tr}(\\mathbf{G}^\\top d\\mathbf{Z})$ with $d\\mathbf{Z} = d\\mathbf{X} "
    "\\mathbf{W} + \\mathbf{X} d\\mathbf{W}$, and inside a trace factors may go round: "
    "$\\operatorname{tr}(\\mathbf{G}^\\top \\mathbf{X} d\\mathbf{W}) = \\operatorname{tr}("
    "(\\mathbf{X}^\\top \\mathbf{G})^\\top d\\mathbf{W})$. So $\\operatorname{tr}(\\mathbf{A} "
    "\\mathbf{X})$ has the derivative $\\mathbf{A}^\\top$, $\\mathbf{a}^\\top \\mathbf{X} "
    "\\mathbf{b}$ has $\\mathbf{a} \\mathbf{b}^\\top$, and $\\mathbf{x}^\\top \\mathbf{B} "
    "\\mathbf{x}$, where $\\mathbf{x}$ stands twice, has $(\\mathbf{B} + \\mathbf{B}^\\top) "
    "\\mathbf{x}$. Sizes that fit show where a factor belongs only as long as they differ; with "
    "square matrices every order fits.",
    "rule.matrix.numerator": "In numerator layout each of these derivatives is the transpose "
    "of what is written here.",
    "rule.collect.title": "common factors in front",
    "rule.collect.says": "Terms with a common factor are written with it in front.",
    "rule.collect.proof": "$a c + b c = (a + b) c$.",
    "rule.constant.title": "constant adjoint",
    "rule.constant.says": "An adjoint that is the same number everywhere is put in where it is "
    "used.",
    "rule.constant.proof": "Equals may be put for equals.",
    "rule.copy.title": "adjoint passed on",
    "rule.copy.says": "An adjoint that equals another one is not named a second time.",
    "rule.copy.proof": "Equals may be put for equals.",
    "rule.adjoint.title": "adjoint",
    "rule.adjoint.says": "All contributions are there; their sum is the adjoint.",
    "rule.adjoint.proof": "The sweep visits a tensor after everything that reads it, so by "
    "induction from the loss no contribution is missing.",
    "rule.recursion.title": "back-propagation through time",
    "rule.recursion.says": "The adjoint at a step is what the loss sends to this step itself, and "
    "the adjoint of the next step times the local derivative between the two: one pass, from the "
    "last step to the first, in which nothing is computed twice.",
    "rule.recursion.proof": "Let $h_t = f(h_{t-1}, x_t)$, $J_t = \\frac{\\partial h_t}"
    "{\\partial h_{t-1}}$, and $d_t$ what the loss sends to step $t$ itself. Then "
    "$\\bar h_t = d_t + J_{t+1}^\\top \\bar h_{t+1}$, and put into itself "
    "$\\bar h_t = \\sum_{s \\geq t} J_{t+1}^\\top \\dots J_s^\\top d_s$: what a late "
    "step sends back passes one factor for each step between. Where a recurrence is linear, "
    "$h_t = W h_{t-1} + x_t$, all factors are equal, and "
    "$\\bar h_t = \\sum_{s \\geq t} (W^\\top)^{s-t} d_s$: along an eigenvector of $W^\\top$ with "
    "eigenvalue $\\lambda$ a contribution is multiplied by $\\lambda^{s-t}$, so it vanishes for "
    "$|\\lambda| < 1$ and explodes for $|\\lambda| > 1$. A state that is carried on by a gate, "
    "$c_t = f_t \\odot c_{t-1} + g_t$, has $f_t$ itself as the factor along this way: it passes "
    "as long as the gate is near 1. Truncated after $\\tau$ steps, the sum has its terms with "
    "$s - t \\leq \\tau$ alone; that is the gradient of another program, in which the state of "
    "every so many steps is held constant, and what is left out shrinks like the factors do. "
    "Truncated at random it is right on average: with $\\xi_t = \\frac{1}{\\pi}$ with probability "
    "$\\pi$ and else 0, all independent, the recursion $\\bar h_t = d_t + \\xi_{t+1} J_{t+1}^\\top "
    "\\bar h_{t+1}$ has the right mean, because each $\\xi$ has mean 1 and a term has no factor "
    "twice; but what is kept grows like $\\pi^{t-s}$, and with it the spread, which is why this is "
    "little used. Here all terms are kept. A weight is the same at all steps, so its gradient adds "
    "up what each step sends to it.",
    "rule.name.title": "a name for an inner sum",
    "rule.name.says": "A sum inside a function gets a name, so that it is computed once and has an "
    "adjoint.",
    "rule.name.proof": "Equals may be put for equals; the value is the same.",
    "and.rules": " and the ",
    "and": "and", "otherwise": "otherwise", "if": "if ", "total": "in all",
    "notebook.setup": "The network of this document, rebuilt from its equations. Needs chainrule.",
    "notebook.check": "The gradients checked again, numerically:",
    "toc.skip": "Skip to the derivation",
}
